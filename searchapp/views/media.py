"""Stored pictures by name: only those a row knows, with a type of our choice, never run as anything."""

import re

from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseBase

from searchapp.access import Role, role_of
from searchapp.models import EvaluationQuery, ItemImage
from searchapp.services.media import media_path

NAME = re.compile(
    r"(?:images|thumbs)/(?P<shard>[0-9a-f]{2})/(?P<sha>(?P=shard)[0-9a-f]{62})\.(?P<ext>jpg|png)"
)
TYPES = {"jpg": "image/jpeg", "png": "image/png"}


def media(request: HttpRequest, name: str) -> HttpResponseBase:
    """GET /media/<name>: the picture, or 404 for what is neither in the catalogue nor a sample photo (nor, for
    operators, in an evaluation set)."""
    match = NAME.fullmatch(name)
    is_public = match is not None and _is_public(match["sha"])
    if match is None or not (is_public or _is_for(request, match["sha"])):
        raise Http404
    etag = f'"{match["sha"]}"'
    if request.headers.get("If-None-Match") == etag:
        response: HttpResponseBase = HttpResponse(status=304)
    else:
        try:
            response = FileResponse(media_path(name).open("rb"), content_type=TYPES[match["ext"]])
        except FileNotFoundError:
            raise Http404 from None
        response["Content-Disposition"] = f'inline; filename="{match["sha"][:16]}.{match["ext"]}"'
    response["ETag"] = etag
    kept = "public, max-age=31536000, immutable" if is_public else "private, no-cache"
    response["Cache-Control"] = kept
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


def _is_public(sha256: str) -> bool:
    return (
        ItemImage.objects.filter(image_sha256=sha256).exists()
        or EvaluationQuery.objects.public().filter(image_sha256=sha256).exists()
    )


def _is_for(request: HttpRequest, sha256: str) -> bool:
    """Photos of evaluation sets, shoppers' among them, are shown to operators alone."""
    is_operator = role_of(request.user, None) >= Role.OPERATOR
    return is_operator and EvaluationQuery.objects.filter(image_sha256=sha256).exists()
