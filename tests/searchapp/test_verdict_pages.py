"""The verdict page: one sentence first, then gates, matrix, categories, pictures and costs."""

from typing import Any

import pytest
from django.test import Client

from searchapp.models import ModelVersion
from searchapp.services import versions
from tests.searchapp.api_cast import operator_make, session_client
from tests.searchapp.operating import candidate
from tests.searchapp.test_pages_search import text_of
from tests.searchapp.verdict_reports import report_of, verdict_make

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def operator() -> Client:
    return session_client(operator_make())


@pytest.fixture
def new(data_dir: Any) -> ModelVersion:
    return candidate()


def judged(new: ModelVersion, **report: Any) -> None:
    verdict_make(new, versions.champion().version, report_of("2.0", "1.0", **report))


def page_of(operator: Client, query: str = "") -> str:
    return text_of(operator.get(f"/ops/versions/2.0/verdict{query}"))


def test_a_candidate_that_passes_is_ready_in_one_sentence_that_ends_in_its_buttons(
    operator: Client, new: ModelVersion
) -> None:
    judged(new)

    page = page_of(operator)

    assert (
        "Ready: 2.0 is better than 1.0 and passes every gate; 1 category gains, 1 loses. Put 2.0 in use "
        "Send it a part of the traffic Measure again"
    ) in page
