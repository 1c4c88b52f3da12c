"""One digest of stored codes: whoever states it before and after states that no code was touched."""

from collections.abc import Iterable
from hashlib import sha256

CodeRow = tuple[str, int, int, bytes]
# Of an entry: what a CodeRow is read from.
CODE_FIELDS = ("image_sha256", "producer__major", "producer__minor", "code")


class CodesDigest:
    """SHA-256 over (photo's SHA-256, producer, packed code), sorted (design 4.2). Rows come by photo, ascending."""

    def __init__(self) -> None:
        self._digest = sha256()
        self._same_photo: list[CodeRow] = []

    def add(self, row: CodeRow) -> None:
        if self._same_photo and self._same_photo[0][0] != row[0]:
            self._flush()
        self._same_photo.append((*row[:3], bytes(row[3])))

    def value(self) -> str:
        self._flush()
        return self._digest.hexdigest()

    def _flush(self) -> None:
        # Databases sort text each in their own way, so they sort digests alone.
        for sha, major, minor, code in sorted(self._same_photo):
            self._digest.update(f"{sha} {major}.{minor} {code.hex()}\n".encode())
        self._same_photo = []


def codes_digest(rows: Iterable[CodeRow]) -> str:
    """Of rows that come by photo, ascending."""
    digest = CodesDigest()
    for row in rows:
        digest.add(row)
    return digest.value()
