"""POST /imports: a catalogue as a file, read in the background."""

from collections.abc import Mapping
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiRequest
from rest_framework.parsers import MultiPartParser

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.jobs import accepted
from searchapp.api.schema import operation, parameter
from searchapp.api.search import sent_values
from searchapp.exceptions import InvalidInput
from searchapp.services import importing

IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY = 100
TRUE, FALSE = {"true", "1", "on", "yes"}, {"false", "0", "off", "no", ""}


class ImportsView(ApiView):
    """A zip (a CSV with its images, class folders or a data pack) or a CSV. The job's `result` has counts.

    With an `Idempotency-Key`, sending it again gives the job that is there already, whatever the file.
    """

    parser_classes = (MultiPartParser,)

    @operation(
        "import_start",
        "Import a catalogue",
        request={"multipart/form-data": OpenApiRequest(documents.ImportInput)},
        parameters=[
            parameter(IDEMPOTENCY_KEY, OpenApiTypes.STR, f"Up to {MAX_KEY} characters.", header=True)
        ],
        answers={202: documents.Job},
        errors=(409, 413, 415, 507),
    )
    def post(self, request: Request) -> Response:
        key = self._idempotency_key(request)
        values = sent_values(request)
        upload = values.get("file")
        if not isinstance(upload, UploadedFile):
            message = "file must be one zip or CSV in a multipart form."
            raise InvalidInput(message, fields={"file": message})
        options = _options(values)
        source = importing.import_upload_store(upload.chunks(), upload.name or "")
        return accepted(
            importing.import_start(source=source, options=options, user=self.person, idempotency_key=key)
        )

    def _idempotency_key(self, request: Request) -> str:
        """The caller's key, in a room of its own: nobody gets somebody else's job by guessing a key."""
        sent = request.headers.get(IDEMPOTENCY_KEY, "").strip()
        if len(sent) > MAX_KEY or not sent.isprintable():
            message = (
                f"{IDEMPOTENCY_KEY} has {len(sent)} characters; allowed: up to {MAX_KEY} printable ones."
            )
            raise InvalidInput(message, fields={IDEMPOTENCY_KEY: message})
        return f"import:{request.user.pk}:{sent}" if sent else ""


def _options(values: Mapping[str, Any]) -> importing.ImportOptions:
    splits = str(values.get("splits", ""))
    return importing.ImportOptions(
        splits=tuple(name.strip() for name in splits.split(",") if name.strip()),
        include_reserved=_truth(values, "include_reserved"),
        dry_run=_truth(values, "dry_run"),
        items=str(values.get("items") or "photos"),
    )


def _truth(values: Mapping[str, Any], name: str) -> bool:
    text = str(values.get(name, "")).strip().lower()
    if text not in TRUE | FALSE:
        message = f"{text[:40]!r} is not true or false."
        raise InvalidInput(f"{name}: {message}", fields={name: message})
    return text in TRUE
