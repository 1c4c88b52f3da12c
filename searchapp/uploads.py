"""Upload handlers that stop reading at the limit instead of after it."""

from typing import Any

from django.conf import settings
from django.core.files.uploadhandler import (
    MemoryFileUploadHandler,
    StopUpload,
    TemporaryFileUploadHandler,
)


def _limit(path: str) -> int:
    """Archives may be big on the two import routes; everywhere else a file is one photo."""
    is_import = path.startswith(("/api/v1/imports", "/admin/"))
    return int(settings.IMPORT_MAX_BYTES if is_import else settings.IMAGE_MAX_BYTES)


class _Limited:
    request: Any
    received = 0

    def over_limit(self, raw_data: bytes) -> bool:
        self.received += len(raw_data)
        return self.received > _limit(self.request.path) + 1024 * 1024


class LimitedMemoryUploadHandler(_Limited, MemoryFileUploadHandler):
    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        if self.over_limit(raw_data):
            raise StopUpload(connection_reset=True)
        return super().receive_data_chunk(raw_data, start)


class LimitedTemporaryUploadHandler(_Limited, TemporaryFileUploadHandler):
    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        if self.over_limit(raw_data):
            raise StopUpload(connection_reset=True)
        return super().receive_data_chunk(raw_data, start)
