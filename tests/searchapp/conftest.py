"""A test's rows are rolled back; what this process remembers of them goes with them."""

from collections.abc import Iterator

import pytest

from searchapp.services import query_log, serving


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    yield
    serving.forget()
    query_log.forget()
