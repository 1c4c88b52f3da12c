"""Upload handlers that stop reading at the limit instead of after it, and say so."""

from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadhandler import MemoryFileUploadHandler, TemporaryFileUploadHandler

IMPORT_ROUTES = (
    "/api/v1/imports",
    "/api/v1/model-versions/import",
    "/ops/versions/import",
    "/ops/evaluation",
    "/admin/",
)
MARGIN_BYTES = 1024 * 1024  # intake refuses a photo over the limit to the byte; this only stops the reading


class UploadTooLarge(RequestDataTooBig):
    """Raised, where Django's own StopUpload would drop the file in silence and leave a form without it."""

    def __init__(self, *, limit_bytes: int, is_import: bool) -> None:
        super().__init__(f"The upload is larger than the {limit_bytes // (1024 * 1024)} MB allowed here.")
        self.is_import = is_import


class _Limited:
    """Staff may send big archives on the import routes; everywhere else a request carries one photo and fields.

    Who asks is looked up here because the CSRF check reads the whole body before any view can refuse it.
    """

    request: Any
    received = 0

    def count(self, raw_data: bytes) -> None:
        is_import = self._is_import()
        limit = int(settings.IMPORT_MAX_BYTES if is_import else settings.IMAGE_MAX_BYTES)
        self.received += len(raw_data)
        if self.received > limit + MARGIN_BYTES:
            raise UploadTooLarge(limit_bytes=limit, is_import=is_import)

    def _is_import(self) -> bool:
        is_staff = getattr(getattr(self.request, "user", None), "is_staff", False)
        return is_staff and self.request.path.startswith(IMPORT_ROUTES)


class LimitedMemoryUploadHandler(_Limited, MemoryFileUploadHandler):
    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        self.count(raw_data)
        return super().receive_data_chunk(raw_data, start)


class LimitedTemporaryUploadHandler(_Limited, TemporaryFileUploadHandler):
    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        self.count(raw_data)
        return super().receive_data_chunk(raw_data, start)
