"""The change counter: numbers become visible in the order in which they commit, without gaps."""

import pytest

from searchapp.models import ChangeKind, GalleryChange, GalleryCounter
from searchapp.services.gallery import gallery_transaction
from tests.searchapp.gallery_guards import assert_numbers_become_visible_in_order, write_one_change

pytestmark = pytest.mark.database


@pytest.mark.django_db(transaction=True)
def test_a_follower_never_finds_a_number_below_one_it_has_read() -> None:
    assert_numbers_become_visible_in_order(write_one_change)


def write_and_fail() -> None:
    with gallery_transaction() as changes:
        changes.record(ChangeKind.ITEM_CHANGED, [1])
        raise RuntimeError("no")


@pytest.mark.django_db
def test_a_transaction_that_fails_takes_its_number_back() -> None:
    with pytest.raises(RuntimeError, match="no"):
        write_and_fail()

    assert GalleryCounter.objects.get().value == 0
    assert not GalleryChange.objects.exists()


@pytest.mark.django_db
def test_a_transaction_that_changed_nothing_takes_no_number() -> None:
    with gallery_transaction():
        pass

    assert GalleryCounter.objects.get().value == 0
