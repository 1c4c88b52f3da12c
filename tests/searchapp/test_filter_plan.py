"""The filter plans of the served index against an oracle that shares no code with them."""

from tests.searchapp.gallery_guards import assert_filters_are_exact


def test_filtered_search_is_exact_at_every_share() -> None:
    assert_filters_are_exact()
