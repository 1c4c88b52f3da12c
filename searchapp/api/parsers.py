"""JSON bodies with a size limit, and text that every database can hold."""

import json
import math
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from searchapp.exceptions import InvalidInput


class BoundedJSONParser(BaseParser):
    """DRF's own reads however much is sent. Also refuses what Python's json allows: NaN, infinity, depth."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        del media_type, parser_context
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise RequestDataTooBig(f"The JSON body is larger than the {limit} bytes allowed.")
        try:
            data = json.loads(body, parse_constant=_refuse_constant, parse_float=_finite_float)
        except RecursionError:
            raise ParseError("The JSON body is nested too deeply.") from None
        except ValueError as error:  # also UnicodeDecodeError and numbers of thousands of digits
            raise ParseError(f"The body is not valid JSON: {error}") from None
        if not isinstance(data, dict):
            raise ParseError(f"The JSON body is a {type(data).__name__}, allowed: an object.")
        return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def refuse_unstorable_text(values: Mapping[str, Any]) -> None:
    """NUL and lone surrogates can be sent, but neither stored nor searched for: refuse them by field."""
    for name, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not _is_storable(text):
                problem = "contains a NUL or half a character"
                raise InvalidInput(
                    f"{name[:50]!r} {problem}, allowed: plain text", fields={name[:50]: problem}
                )


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
