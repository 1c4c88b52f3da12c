"""Photos that look alike, side by side: what staff see of them, and what their decisions do."""

from pathlib import Path
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from searchapp.exceptions import Conflict
from searchapp.models import AuditEvent, DuplicatePair, GalleryChange, Item, ItemImage, Job
from searchapp.services import catalogue, duplicate_decisions
from searchapp.services.accounts import demo_accounts_ensure
from tests.searchapp.api_cast import session_client, user_make
from tests.searchapp.galleries import item_with_photos
from tests.searchapp.imports import apple, csv_catalogue, imported
from tests.searchapp.test_near_duplicates import altered
from tests.searchapp.test_pages_search import HOSTILE, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]
LIST = "/jobs/duplicates"


@pytest.fixture
def sam(data_dir: Path) -> User:
    demo_accounts_ensure()
    user = user_make("sam", is_staff=True)
    user.groups.add(Group.objects.get(name="catalogue staff"))
    return user


@pytest.fixture
def staff(sam: User) -> Client:
    return session_client(sam)


@pytest.fixture
def pair(sam: User, photos: list[bytes]) -> DuplicatePair:
    """The photo of `new`, its second, equals the one of `old`."""
    item_with_photos("old", [photos[0]], title="Old apple")
    item_with_photos("new", [photos[1], photos[0]], title="New apple")
    return pair_of("new", "old")


def pair_of(new: str, old: str, **fields: object) -> DuplicatePair:
    first, last = (ItemImage.objects.filter(item__sku=sku).order_by("pk").last() for sku in (old, new))
    assert first is not None
    assert last is not None
    return DuplicatePair.objects.create(new_image=last, old_image=first, same_content=True, **fields)


def test_an_import_report_shows_each_pair_side_by_side_with_two_ways_out(
    staff: Client, tmp_path: Path, photos: list[bytes]
) -> None:
    item_with_photos("old-0", [photos[0]], title="Old apple")
    new = [photos[0], altered(photos[1]), photos[1]]
    imported(csv_catalogue(tmp_path / "shop", new, [apple(0, title="New"), apple(1), apple(2, title="Twin")]))
    job = Job.objects.get(kind="import_catalogue")

    response = staff.get(f"/jobs/{job.pk}/")
    words, html = text_of(response), response.content.decode()

    assert "Look alike 2" in words
    assert "2 new photos equal a photo of another item. They came in all the same" in words
    assert "The same picture the same content New New apple-0" in words
    assert "In the catalogue Old apple old-0" in words
    assert "Looks the same pictures 100 % alike, codes differ in" in words
    for found in DuplicatePair.objects.all():
        assert f'/media/{found.new_image.thumbnail}"' in html
        assert f'/media/{found.old_image.thumbnail}"' in html
        assert f'action="{LIST}/{found.pk}/keep"' in html
        assert f'href="{LIST}/{found.pk}/remove?job={job.pk}"' in html
    kept = DuplicatePair.objects.order_by("pk")[0]
    after = staff.post(f"{LIST}/{kept.pk}/keep", {"job": str(job.pk)}, follow=True)
    assert after.redirect_chain == [(f"/jobs/{job.pk}/", 302)]
    assert "Both are kept (decided by sam)." in text_of(after)
    assert f"/{kept.pk}/keep" not in after.content.decode()


def test_a_trial_runs_report_shows_the_pairs_and_no_buttons(
    staff: Client, tmp_path: Path, photos: list[bytes]
) -> None:
    item_with_photos("old-0", [photos[0]])
    imported(csv_catalogue(tmp_path / "shop", [photos[0]], [apple(0)]), dry_run=True)

    response = staff.get(f"/jobs/{Job.objects.get(kind='import_catalogue').pk}/")

    assert "New, line 2 apple-0" in text_of(response)
    assert "1 new photo equals a photo of another item. The import takes them in all the same" in text_of(
        response
    )
    assert 'src="data:image/jpeg;base64,' in response.content.decode()
    assert "/keep" not in response.content.decode()


def test_both_are_kept_once_and_never_asked_about_again(
    staff: Client, sam: User, pair: DuplicatePair
) -> None:
    before = GalleryChange.objects.count()

    first = staff.post(f"{LIST}/{pair.pk}/keep", follow=True)
    again = staff.post(f"{LIST}/{pair.pk}/keep", follow=True)

    assert first.redirect_chain == [(LIST, 302)]
    assert "this pair is not asked about again" in text_of(first)
    assert "There is nothing to decide" in text_of(first)
    assert "These two are settled already" in text_of(again)
    pair.refresh_from_db()
    assert (pair.decision, pair.decided_by) == ("keep", sam)
    event = AuditEvent.objects.get(action="duplicate.keep")
    assert (event.subject, event.actor, event.before["old"]["sku"]) == ("new", sam, "old")
    assert (ItemImage.objects.count(), GalleryChange.objects.count()) == (3, before)


def test_removing_says_first_what_goes_and_takes_the_new_photo_alone_when_there_are_others(
    staff: Client, sam: User, pair: DuplicatePair
) -> None:
    asked = staff.get(f"{LIST}/{pair.pk}/remove")
    assert "Remove the new photo of New apple?" in text_of(asked)
    assert "New apple (new) keeps its 1 other photo." in text_of(asked)
    assert "Old apple (old) stays as it is." in text_of(asked)
    assert ItemImage.objects.count() == 3

    done = staff.post(f"{LIST}/{pair.pk}/remove", {"with_item": "no"}, follow=True)
    again = staff.post(f"{LIST}/{pair.pk}/remove", {"with_item": "no"}, follow=True)

    assert "The new photo of new is deleted." in text_of(done)
    assert "These two are settled already" in text_of(again)
    assert not ItemImage.objects.filter(pk=pair.new_image_id).exists()
    assert sorted(Item.objects.values_list("sku", flat=True)) == ["new", "old"]
    assert ItemImage.objects.count() == 2
    event = AuditEvent.objects.get(action="duplicate.remove")
    assert (event.actor, event.after, event.before["same_content"]) == (sam, {"removed": "photo"}, True)
    assert DuplicatePair.objects.count() == 0


def test_an_item_goes_with_its_only_photo(staff: Client, pair: DuplicatePair) -> None:
    catalogue.image_delete(image=ItemImage.objects.filter(item__sku="new").order_by("pk")[0])

    asked = staff.get(f"{LIST}/{pair.pk}/remove")
    staff.post(f"{LIST}/{pair.pk}/remove", {"with_item": "yes"})

    assert "Delete New apple?" in text_of(asked)
    assert "is deleted whole, because this is its only photo" in text_of(asked)
    assert list(Item.objects.values_list("sku", flat=True)) == ["old"]
    assert AuditEvent.objects.filter(action="item.delete", subject="new").exists()


def test_what_changed_since_the_page_was_made_is_not_deleted(staff: Client, pair: DuplicatePair) -> None:
    response = staff.post(f"{LIST}/{pair.pk}/remove", {"with_item": "yes"}, follow=True)

    assert "The item has changed meanwhile: the item has other photos. Nothing was deleted" in text_of(
        response
    )
    assert (ItemImage.objects.count(), Item.objects.count(), DuplicatePair.objects.count()) == (3, 2, 1)
    assert not AuditEvent.objects.filter(action="duplicate.remove").exists()
    with pytest.raises(Conflict):
        duplicate_decisions.pair_remove_new(pair.pk, with_item=True)


def test_staff_without_the_right_see_the_pairs_and_may_decide_nothing(pair: DuplicatePair) -> None:
    tim = session_client(user_make("tim", is_staff=True))

    page = tim.get(LIST)
    answers = [tim.post(f"{LIST}/{pair.pk}/keep"), tim.post(f"{LIST}/{pair.pk}/remove", {"with_item": "no"})]

    assert "New apple" in text_of(page)
    assert "/keep" not in page.content.decode()
    assert "/remove" not in page.content.decode()
    assert [answer.status_code for answer in answers] == [403, 403]
    pair.refresh_from_db()
    assert (pair.decision, ItemImage.objects.count()) == ("", 3)


def test_a_decision_from_another_site_changes_nothing(sam: User, pair: DuplicatePair) -> None:
    strict = session_client(sam, enforce_csrf_checks=True)

    for path in ("keep", "remove"):
        assert strict.post(f"{LIST}/{pair.pk}/{path}", {"with_item": "no"}).status_code == 403

    pair.refresh_from_db()
    assert (pair.decision, ItemImage.objects.count()) == ("", 3)


def test_a_job_that_is_none_leads_back_to_the_list(staff: Client, pair: DuplicatePair) -> None:
    answer = staff.post(f"{LIST}/{pair.pk}/keep", {"job": "//evil.example"})

    assert answer["Location"] == LIST
    assert staff.post(f"{LIST}/{pair.pk}/keep", {"job": str(uuid4())}).status_code == 302


def test_the_list_has_pages_escapes_names_and_costs_the_same_queries_for_many(
    staff: Client, pair: DuplicatePair, photos: list[bytes]
) -> None:
    Item.objects.filter(sku="old").update(title=HOSTILE)
    with CaptureQueriesContext(connection) as few:
        page = staff.get(LIST)
    assert HOSTILE not in page.content.decode()
    for number in range(13):
        item_with_photos(f"more-{number}", [photos[2]])
        pair_of(f"more-{number}", "old")

    with CaptureQueriesContext(connection) as many:
        page = staff.get(LIST)

    assert len(few) == len(many)
    assert "14 to decide" in text_of(page)
    assert page.content.decode().count("<article") == 12
    assert "more-12" in text_of(page)
    assert staff.get(f"{LIST}?page=2").content.decode().count("<article") == 2


def test_the_overview_counts_the_pairs_and_an_items_form_names_the_other(
    sam: User, pair: DuplicatePair
) -> None:
    sue = session_client(user_make("sue", is_staff=True, is_superuser=True))
    address = "/admin/searchapp/item/{}/change/"

    overview, forms = (
        sue.get("/admin/"),
        [sue.get(address.format(image.item_id)) for image in (pair.new_image, pair.old_image)],
    )
    with CaptureQueriesContext(connection) as open_queries:
        sue.get(address.format(pair.new_image.item_id))

    assert "1 new photo looks like one of another item" in text_of(overview)
    assert f'href="{LIST}"' in overview.content.decode()
    assert [f"{name} · Decide" in text_of(form) for name, form in zip(["Old apple", "New apple"], forms)] == [
        True
    ] * 2
    duplicate_decisions.pair_keep(pair.pk, sam)
    assert "looks like one of another" not in text_of(sue.get("/admin/"))
    with CaptureQueriesContext(connection) as queries:
        form = sue.get(address.format(pair.new_image.item_id))
    assert "Decide" not in text_of(form)
    assert len(queries) <= len(open_queries)
