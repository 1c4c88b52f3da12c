"""Every error a service raises: a stable code, a sentence for people, and the fields concerned.

Services know no HTTP; `status` is the class of failure in the numbers everybody knows, and the one place where the
API and the pages look it up.
"""

from collections.abc import Mapping


class SearchAppError(Exception):
    """Base of all expected failures. The message says what was wrong, what was got and what is allowed."""

    code = "error"
    status = 400

    def __init__(self, message: str, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})


class BadImage(SearchAppError):
    code = "bad_image"
    status = 422


class ImageTooLarge(BadImage):
    code = "image_too_large"
    status = 413


class UnsupportedImage(BadImage):
    code = "unsupported_image"
    status = 415


class InvalidInput(SearchAppError):
    code = "invalid_input"
    status = 400


class NotFound(SearchAppError):
    code = "not_found"
    status = 404


class Conflict(SearchAppError):
    code = "conflict"
    status = 409


class IncompatibleVersion(Conflict):
    code = "incompatible_version"


class Unavailable(SearchAppError):
    """The service cannot answer now but will: warming up, database away, too many searches at once."""

    code = "unavailable"
    status = 503
    retry_after_seconds = 2


class TooManyRequests(SearchAppError):
    """The caller has had its share for now."""

    code = "too_many_requests"
    status = 429

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NoSpace(SearchAppError):
    code = "no_space"
    status = 507


class JobCancelled(SearchAppError):
    code = "job_cancelled"
    status = 409


class LeaseLost(SearchAppError):
    """Another worker owns the job now; whatever this one still wants to write must not be written."""

    code = "lease_lost"
    status = 409
