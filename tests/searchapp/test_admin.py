"""The staff's admin: every write goes through a service, every refusal stands beside its field."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from searchapp.models import ApiKey, AuditEvent, Category, GalleryChange, Item, ItemImage, Job, OutboxMessage
from searchapp.services import catalogue, jobs
from searchapp.services.accounts import demo_accounts_ensure
from tests.searchapp.api_cast import session_client, user_make
from tests.searchapp.galleries import item_with_photos, shop
from tests.searchapp.test_pages_search import HOSTILE, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]
ITEMS = "/admin/searchapp/item/"


@pytest.fixture
def sue(data_dir: Path) -> User:
    return user_make("sue", is_staff=True, is_superuser=True)


@pytest.fixture
def admin(sue: User) -> Client:
    return session_client(sue)


def photo(data: bytes, name: str = "photo.jpg") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data, content_type="image/jpeg")


def item_form(category: Category, **fields: Any) -> dict[str, Any]:
    inline = {"images-TOTAL_FORMS": "0", "images-INITIAL_FORMS": "0", "images-MAX_NUM_FORMS": "0"}
    return {
        "sku": "pear",
        "title": "Pear",
        "category": str(category.pk),
        "tag_names": "Green, fresh",
        **inline,
        **fields,
    }


def test_an_item_with_two_photos_is_made_in_one_step_and_waits_for_one_job(
    admin: Client, photos: list[bytes]
) -> None:
    form = item_form(catalogue.category_ensure("Fruit"), price="2.50", currency="eur")

    response = admin.post(ITEMS + "add/", {**form, "photos": [photo(photos[0]), photo(photos[1])]})

    assert response.status_code == 302
    item = Item.objects.get()
    assert (item.sku, item.title, str(item.price), item.currency) == ("pear", "Pear", "2.50", "EUR")
    assert sorted(item.tags.values_list("name", flat=True)) == ["fresh", "green"]
    assert item.images.count() == 2
    assert [job.kind for job in Job.objects.all()] == ["encode_images"]
    assert OutboxMessage.objects.count() == 1
    assert GalleryChange.objects.filter(kind="item_changed", subject_id=item.pk).exists()
    assert "fresh" in item.search_text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sku": "taken"}, "is taken"),
        ({"price": "-1"}, "greater than or equal to 0"),
        ({"currency": "E1"}, "is not a three-letter code such as EUR"),
        ({"latitude": "99", "longitude": "1"}, "less than or equal to 90"),
        ({"latitude": "9"}, "latitude and longitude go together"),
        ({"url": "javascript:alert(1)"}, "Enter a valid URL"),
        ({"tag_names": "x" * 81}, "is longer than 80"),
    ],
)
def test_what_the_service_refuses_stands_beside_the_field_and_nothing_is_written(
    admin: Client, fields: dict[str, str], words: str
) -> None:
    category = catalogue.category_ensure("Fruit")
    catalogue.item_create(sku="taken", category=category)
    changes = GalleryChange.objects.count()

    response = admin.post(ITEMS + "add/", item_form(category, **fields))

    assert response.status_code == 200
    assert words in text_of(response)
    assert [item.sku for item in Item.objects.all()] == ["taken"]
    assert GalleryChange.objects.count() == changes


def test_a_broken_photo_is_named_and_the_item_is_not_made(admin: Client, photos: list[bytes]) -> None:
    form = item_form(catalogue.category_ensure("Fruit"))

    response = admin.post(
        ITEMS + "add/", {**form, "photos": [photo(photos[0]), photo(b"%PDF-1.4", "list.pdf")]}
    )

    assert "list.pdf: That file is a PDF." in text_of(response)
    assert not Item.objects.exists()
    assert not ItemImage.objects.exists()


def test_changing_and_deleting_go_through_the_services(
    admin: Client, photos: list[bytes], django_capture_on_commit_callbacks: Any
) -> None:
    items = shop(photos)
    image = items[0].images.get()
    address = f"{ITEMS}{items[0].pk}/"
    inline = {
        "images-TOTAL_FORMS": "1",
        "images-INITIAL_FORMS": "1",
        "images-MAX_NUM_FORMS": "0",
        "images-0-id": str(image.pk),
        "images-0-item": str(items[0].pk),
        "images-0-position": "3",
        "images-0-alt": "Red apples in a crate",
    }
    form = item_form(items[0].category, title="Apple, red", **inline)

    assert admin.post(f"{address}change/", form).status_code == 302
    image.refresh_from_db()
    assert (image.alt, image.position) == ("Red apples in a crate", 3)
    assert Item.objects.get(pk=items[0].pk).title == "Apple, red"
    assert "Apple, red" in Item.objects.get(pk=items[0].pk).search_text

    with django_capture_on_commit_callbacks(execute=True):
        assert admin.post(f"{address}delete/", {"post": "yes"}).status_code == 302
    assert not Item.objects.filter(pk=items[0].pk).exists()
    assert GalleryChange.objects.filter(kind="item_removed", subject_id=items[0].pk).exists()
    assert AuditEvent.objects.get(action="item.delete").actor_name == "sue"


def test_a_photo_ticked_for_deletion_goes_with_its_entry(admin: Client, photos: list[bytes]) -> None:
    item = shop(photos)[0]
    image = item.images.get()
    entry = image.entries.get()
    inline = {
        "images-TOTAL_FORMS": "1",
        "images-INITIAL_FORMS": "1",
        "images-MAX_NUM_FORMS": "0",
        "images-0-id": str(image.pk),
        "images-0-item": str(item.pk),
        "images-0-position": "0",
        "images-0-alt": "",
        "images-0-DELETE": "on",
    }

    admin.post(f"{ITEMS}{item.pk}/change/", item_form(item.category, **inline))

    assert item.images.count() == 0
    assert GalleryChange.objects.filter(kind="entry_removed", subject_id=entry.pk).exists()


def test_several_items_are_deleted_at_once_by_the_list_action(admin: Client, photos: list[bytes]) -> None:
    items = shop(photos)
    chosen = [str(item.pk) for item in items[:2]]

    admin.post(ITEMS, {"action": "delete_selected", "_selected_action": chosen, "post": "yes"})

    assert Item.objects.count() == 4
    assert GalleryChange.objects.filter(kind="item_removed").count() == 2


def test_badges_say_searchable_pending_or_failed_with_the_reason_and_filter_the_list(
    admin: Client, photos: list[bytes]
) -> None:
    items = shop(photos)
    waiting = item_with_photos("waiting", [photos[6]], title="Waiting one")
    ItemImage.objects.filter(item=items[5]).update(
        failure="The stored file is missing; upload the photo again."
    )

    everything = text_of(admin.get(ITEMS))
    failed = text_of(admin.get(ITEMS, {"state": "failed"}))
    pending = text_of(admin.get(ITEMS, {"state": "pending"}))

    assert [badge in everything for badge in ("Searchable", "Pending", "Failed")] == [True] * 3
    assert "The stored file is missing; upload the photo again." in failed
    assert "apple-0" not in failed
    assert waiting.sku in pending
    assert "being encoded" in pending
    assert "apple-0" not in pending


def test_a_failed_photo_is_retried_from_its_item(admin: Client, photos: list[bytes]) -> None:
    image = shop(photos)[0].images.get()
    Job.objects.all().delete()
    ItemImage.objects.filter(pk=image.pk).update(failure="broken")

    page = admin.get(f"{ITEMS}{image.item_id}/change/").content.decode()
    admin.post(f"{ITEMS}photos/{image.pk}/retry/")

    assert f'formaction="{ITEMS}photos/{image.pk}/retry/"' in page
    image.refresh_from_db()
    assert image.failure == ""
    assert [job.kind for job in Job.objects.all()] == ["encode_images"]


def test_the_list_costs_the_same_queries_for_one_item_as_for_many(admin: Client, photos: list[bytes]) -> None:
    item_with_photos("one", [photos[0]])
    admin.get(ITEMS)
    with CaptureQueriesContext(connection) as few:
        admin.get(ITEMS)
    shop(photos[1:])

    with CaptureQueriesContext(connection) as many:
        admin.get(ITEMS)

    assert len(few) == len(many)


def test_categories_are_made_moved_and_deleted_through_their_service(admin: Client) -> None:
    fruit = catalogue.category_ensure("Fruit")
    add, change = "/admin/searchapp/category/add/", "/admin/searchapp/category/{}/change/"

    admin.post(add, {"name": "Apple", "parent": str(fruit.pk), "vertical": "product"})
    apple = Category.objects.get(name="Apple")
    twice = admin.post(add, {"name": "Apple", "parent": str(fruit.pk), "vertical": "product"})
    cycle = admin.post(
        change.format(fruit.pk), {"name": "Fruit", "parent": str(apple.pk), "vertical": "product"}
    )
    blocked = admin.post(f"/admin/searchapp/category/{fruit.pk}/delete/", {"post": "yes"})
    admin.post(change.format(fruit.pk), {"name": "Fresh fruit", "parent": "", "vertical": "product"})
    admin.post(f"/admin/searchapp/category/{apple.pk}/delete/", {"post": "yes"})

    assert apple.path == "Fruit > Apple"
    assert "exists already" in text_of(twice)
    assert "a category cannot lie in itself" in text_of(cycle)
    assert "0 items, 1 categories" in text_of(blocked)
    assert list(Category.objects.values_list("path", flat=True)) == ["Fresh fruit"]


def archive_of(photos: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "catalogue.csv",
            "sku,title,category,images\none,One,Fruit,one.jpg\ntwo,Two,Fruit,two.jpg\n,Nameless,Fruit,one.jpg\n",
        )
        archive.writestr("one.jpg", photos[0])
        archive.writestr("two.jpg", photos[1])
    return buffer.getvalue()


def test_an_import_is_tried_first_shown_and_then_done_once(admin: Client, photos: list[bytes]) -> None:
    page = f"{ITEMS}import-catalogue/"
    upload = SimpleUploadedFile("shop.zip", archive_of(photos), content_type="application/zip")

    trial_page = admin.post(page, {"file": upload, "trial": "on"})
    trial = Job.objects.get()
    assert trial_page["Location"] == f"/jobs/{trial.pk}/"
    jobs.job_run_here(trial)
    report = text_of(admin.get(f"/jobs/{trial.pk}/"))
    assert "Created 2" in report
    assert "This was a trial run: nothing was written." in report
    assert not Item.objects.exists()

    confirm = f"{ITEMS}import-catalogue/{trial.pk}/"
    first, second = admin.post(confirm), admin.post(confirm)
    assert first["Location"] == second["Location"]
    jobs.job_run_here(Job.objects.exclude(pk=trial.pk).get())
    assert sorted(Item.objects.values_list("sku", flat=True)) == ["one", "two"]


def test_only_a_trial_run_can_be_confirmed(admin: Client, photos: list[bytes]) -> None:
    upload = SimpleUploadedFile("shop.zip", archive_of(photos), content_type="application/zip")
    admin.post(f"{ITEMS}import-catalogue/", {"file": upload})
    job = Job.objects.get()

    answer = admin.post(f"{ITEMS}import-catalogue/{job.pk}/", follow=True)

    assert answer.redirect_chain == [(f"/jobs/{job.pk}/", 302)]
    assert "This job is not a trial run" in text_of(answer)
    assert list(Job.objects.all()) == [job]


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "empty"), (b"PK\x03\x04 not a zip", "zip"), (b"a,b\n1,2\n", "sku")]
)
def test_a_file_that_is_no_catalogue_is_refused_on_the_form_and_no_job_is_made(
    admin: Client, data: bytes, words: str
) -> None:
    response = admin.post(
        f"{ITEMS}import-catalogue/", {"file": SimpleUploadedFile("x.zip", data), "trial": "on"}
    )

    assert response.status_code == 400
    assert words in text_of(response)
    assert not Job.objects.exists()


def test_metadata_goes_out_as_csv_and_comes_back_changed_through_the_services(
    admin: Client, photos: list[bytes]
) -> None:
    shop(photos)
    from searchapp.admin.resources import ItemResource

    resource = ItemResource()
    table = resource.export(Item.objects.order_by("sku"))
    assert table.headers[:5] == ["sku", "title", "category", "description", "tags"]
    assert table.dict[1]["category"] == "Fruit > Apple"
    assert table.dict[1]["tags"] == "fresh|red"
    table.append(["plum", "Plum", "Fruit > Stone fruit", "", "blue", "", "", "", "", "", ""])
    table.append(["bad", "Bad", "Fruit", "", "", "-3", "", "", "", "", ""])

    result = resource.import_data(table, dry_run=False, raise_errors=False)

    plum = Item.objects.filter(sku="plum").first()
    assert result.has_errors() or result.has_validation_errors()
    assert plum is None  # one bad line: nothing of the file is kept
    del table[-1]
    resource.import_data(table, dry_run=False, raise_errors=True)
    plum = Item.objects.get(sku="plum")
    assert plum.category.path == "Fruit > Stone fruit"
    assert GalleryChange.objects.filter(kind="item_changed", subject_id=plum.pk).exists()


def test_a_key_is_shown_once_works_and_is_revoked(admin: Client, sue: User) -> None:
    made = admin.post("/admin/searchapp/apikey/add/", {"name": "till", "user": str(sue.pk)}, follow=True)
    key = ApiKey.objects.get()
    text = next(word for word in text_of(made).split() if word.startswith("per_"))
    shown_again = text_of(admin.get("/admin/searchapp/apikey/"))

    assert text.startswith(f"per_{key.prefix}_")
    assert text not in shown_again
    admin.post("/admin/searchapp/apikey/", {"action": "revoke", "_selected_action": [str(key.pk)]})
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert list(AuditEvent.objects.order_by("id").values_list("action", flat=True)) == [
        "key.create",
        "key.revoke",
    ]


@pytest.mark.parametrize("name", ["evaluationquery", "modelversion", "job", "feedback", "auditevent"])
def test_records_can_be_seen_and_not_changed(admin: Client, name: str) -> None:
    assert admin.get(f"/admin/searchapp/{name}/").status_code == 200
    assert admin.get(f"/admin/searchapp/{name}/add/").status_code == 403


def test_the_demonstration_staff_sees_the_catalogue_and_not_the_keys(data_dir: Path) -> None:
    demo_accounts_ensure()
    staff = session_client(User.objects.get(username="staff"))

    overview = text_of(staff.get("/admin/"))

    assert [staff.get(ITEMS).status_code, staff.get(ITEMS + "add/").status_code] == [200, 200]
    assert staff.get("/admin/searchapp/apikey/").status_code == 403
    assert staff.get("/admin/auth/user/").status_code == 403
    assert "Photos waiting" in overview
    assert "API keys" not in overview


def test_the_admin_loads_and_sends_nothing_outside_this_site_and_is_framed_by_nobody(admin: Client) -> None:
    policy = admin.get("/admin/")["Content-Security-Policy"]

    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in admin.get("/jobs/")["Content-Security-Policy"]


def test_hostile_titles_are_text_in_the_admin(admin: Client, photos: list[bytes]) -> None:
    item = item_with_photos("evil", [photos[0]], title=HOSTILE, description=HOSTILE)
    ItemImage.objects.update(failure=HOSTILE)

    for address in (ITEMS, f"{ITEMS}{item.pk}/change/", f"{ITEMS}{item.pk}/delete/", "/admin/"):
        html = admin.get(address).content.decode()
        assert "<script>alert(1)" not in html
        assert "<img src=x" not in html


def test_the_csv_pages_ask_for_the_rights_of_the_forms(data_dir: Path) -> None:
    client = session_client(user_make("vera", is_staff=True))

    codes = [client.get(f"/admin/searchapp/item/{page}/").status_code for page in ("import", "export")]

    assert codes == [403, 403]
