"""POST /search and POST /encode. The answer is one dict written as JSON: no serializer stands in its way."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.http import JsonResponse, QueryDict
from drf_spectacular.utils import OpenApiRequest
from rest_framework.parsers import MultiPartParser

from searchapp.api import documents
from searchapp.api.base import ApiView, Request
from searchapp.api.parsers import refuse_unstorable_text
from searchapp.api.schema import operation
from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.services import intake, metrics, search, throttling
from searchapp.services.explaining import EXPLANATION_COST
from searchapp.services.search_answers import SearchAnswer
from searchapp.services.search_options import SearchOptions

ONE_OF = "give one of: image (a file), text, sku, or code with embedding and model_version"
PICTURE_ERRORS = (413, 415, 422)
EXPLAIN_WORDS = {"true": True, "1": True, "false": False, "0": False, "": False}
ASKED_BY = {"text": "words", "item": "an item", "vector": "a code and an embedding"}


class SearchView(ApiView):
    """Find items by a picture, by words, by an item of the catalogue, or by a code and an embedding.

    Filters may stand in the body or in the query string; the body wins. `X-Model-Version` names the version
    that answered and `ETag` changes when version or results do.
    """

    @operation(
        "search",
        "Search",
        request={
            "multipart/form-data": OpenApiRequest(documents.SearchByImage),
            "application/json": OpenApiRequest(documents.SearchByValue),
        },
        answers={200: documents.SearchAnswer},
        errors=(404, 409, 429, *PICTURE_ERRORS),
    )
    def post(self, request: Request) -> JsonResponse:
        values = sent_values(request)
        kind = _kind(values)
        explain = explain_asked(values, kind)
        if self.is_anonymous:  # at once: a low rate admits a search with its explanation as all of a period's
            calls = 1 if explain is None else 1 + EXPLANATION_COST
            throttling.search_spend(client=self.client, calls=calls)
        try:
            answer = _answer(kind, values, explain=explain, visitor=self.visitor)
            if self.is_anonymous:
                throttling.items_spend(client=self.client, skus=[result.sku for result in answer.results])
        except SearchAppError as error:
            metrics.search_observe(kind=kind, outcome=error.code)
            raise
        return _response(answer, role_is_anonymous=self.is_anonymous)


class EncodeView(ApiView):
    """Code and embedding of a picture by the version in use; send them back to /search with its name."""

    parser_classes = (MultiPartParser,)

    @operation(
        "encode",
        "Encode a picture",
        request={"multipart/form-data": OpenApiRequest(documents.EncodeInput)},
        answers={200: documents.Encoded},
        errors=PICTURE_ERRORS,
    )
    def post(self, request: Request) -> JsonResponse:
        values = sent_values(request)
        data, filename = sent_file(values, "image")
        encoded = search.encode(data=data, filename=filename, crop=_crop(values))
        return JsonResponse(encoded, headers={"X-Model-Version": encoded["model_version"]})


def sent_values(request: Request) -> dict[str, Any]:
    """Query string and body as one mapping; a name sent several times is a list. `tags` means `tag`."""
    values = _flat(request.query_params) | _flat(request.data)
    refuse_unstorable_text(values)
    if "tags" in values:
        values.setdefault("tag", values["tags"])
    return values


def sent_file(values: Mapping[str, Any], name: str) -> tuple[bytes, str]:
    upload = values.get(name)
    if not isinstance(upload, UploadedFile):
        message = f"{name} must be one file in a multipart form."
        raise InvalidInput(message, fields={name: message})
    return upload.read(), upload.name or ""


def _flat(source: Any) -> dict[str, Any]:
    if not isinstance(source, QueryDict):
        return dict(source)
    return {name: values[0] if len(values) == 1 else values for name, values in source.lists()}


def _kind(values: Mapping[str, Any]) -> str:
    """What is asked with. Text beside an image refines it; any other two together are a mistake."""
    asked = {
        "image": "image" in values,
        "item": "sku" in values,
        "vector": "code" in values or "embedding" in values,
    }
    kinds = [kind for kind, is_asked in asked.items() if is_asked]
    if "text" in values and kinds != ["image"]:
        kinds.append("text")
    if len(kinds) != 1:
        got = ", ".join(_known(values)) or "none of them"
        raise InvalidInput(f"The question is not clear: {ONE_OF}; got {got}.")
    return kinds[0]


def _known(values: Mapping[str, Any]) -> Iterable[str]:
    return (name for name in ("image", "text", "sku", "code", "embedding") if name in values)


def explain_asked(values: Mapping[str, Any], kind: str) -> str | None:
    """The SKU to explain, EXPLAIN_BEST for the first result, None when no explanation is asked for."""
    said = values.get("explain", "")
    word = str(said).lower() if isinstance(said, bool) else _text(values, "explain").lower()
    sku = _text(values, "explain_sku")
    wrong: dict[str, str] = {}
    if word not in EXPLAIN_WORDS:
        allowed = "true or false; explain_sku names another result than the best"
        wrong["explain"] = f"{word[:40]!r} is not allowed; allowed: {allowed}."
    elif not (sku or EXPLAIN_WORDS[word]):
        return None
    elif sku and word and not EXPLAIN_WORDS[word]:
        wrong["explain"] = "false contradicts explain_sku; leave one of them out."
    elif kind != "image":
        named = "explain_sku" if sku else "explain"
        wrong[named] = f"Only a search by picture can be explained; this one asks by {ASKED_BY[kind]}."
    if wrong:
        raise InvalidInput(" ".join(f"{name}: {text}" for name, text in wrong.items()), fields=wrong)
    return sku or search.EXPLAIN_BEST


def _answer(kind: str, values: Mapping[str, Any], *, explain: str | None, visitor: str) -> SearchAnswer:
    options = SearchOptions.parse(values)
    if kind == "image":
        data, filename = sent_file(values, "image")
        return search.search_by_image(
            data=data,
            filename=filename,
            crop=_crop(values),
            options=options,
            text=_text(values, "text"),
            explain=explain,
            visitor=visitor,
        )
    if kind == "text":
        return search.search_by_text(text=_text(values, "text"), options=options, visitor=visitor)
    if kind == "item":
        return search.search_by_item(sku=_text(values, "sku"), options=options, visitor=visitor)
    return search.search_by_vector(
        code=values.get("code"),
        embedding=values.get("embedding"),
        model_version=values.get("model_version"),
        options=options,
    )


def _crop(values: Mapping[str, Any]) -> intake.Crop | None:
    text = _text(values, "crop")
    return intake.Crop.parse(text) if text else None


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str):
        message = f"{name} must be text, once; got {type(value).__name__}."
        raise InvalidInput(message, fields={name: message})
    return value.strip()


def _response(answer: SearchAnswer, *, role_is_anonymous: bool) -> JsonResponse:
    body = answer.as_dict(role_is_anonymous=role_is_anonymous)
    found = "\n".join(f"{result['sku']}\t{result['score']}" for result in body["results"])
    digest = hashlib.blake2b(found.encode(), digest_size=12).hexdigest()
    headers = {"X-Model-Version": answer.model_version, "ETag": f'W/"{answer.model_version}-{digest}"'}
    return JsonResponse(body, headers=headers)
