"""Operators' and shoppers' labelled photos judge versions, are never trained on, and go when they must."""

import io
import zipfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import DjangoCaptureOnCommitCallbacks

from searchapp.exceptions import InvalidInput
from searchapp.models import AuditEvent, EvaluationQuery, EvaluationSet, Feedback, Item, Job, JobState
from searchapp.services import evaluation_sets, holding_out, query_log
from searchapp.services.held_out import held_out_queries
from searchapp.services.jobs import job_run_here
from searchapp.services.leftovers import leftovers_remove
from searchapp.services.training_photos import training_photos
from searchapp.views import shelves
from tests.searchapp.api_cast import operator_make, session_client, user_make
from tests.searchapp.galleries import item_with_photos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("catalogue")]


@pytest.fixture
def catalogue(data_dir: Path, photos: list[bytes]) -> None:
    """apple-0..2 under Fruit > Apple and juice-0 under Drink, with the first four photos."""
    for number in range(3):
        item_with_photos(f"apple-{number}", [photos[number]], "Fruit > Apple")
    item_with_photos("juice-0", [photos[3]], "Drink")


def zipped(entries: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def brought(entries: Mapping[str, bytes | str], name: str = "phones", **options: Any) -> dict[str, Any]:
    job = evaluation_sets.set_upload(
        name=name, chunks=[zipped(entries)], filename="x.zip", user=None, **options
    )
    job = job_run_here(job)
    assert job.state == JobState.DONE, job.error
    return dict(job.result or {})


def asked() -> set[tuple[str, str, str]]:
    """Relevance, item and category of each query of a set."""
    rows = EvaluationQuery.objects.exclude(evaluation_set=None).select_related("item", "category")
    return {(row.relevance, row.item.sku if row.item else "", row.category.path) for row in rows}


def media_files(data_dir: Path) -> set[Path]:
    return {path for path in (data_dir / "media").rglob("*") if path.is_file()}


def said_right(photo: bytes, sku: str = "apple-0", verdict: str = "right") -> Feedback:
    query_id = uuid4()
    query_log.feedback_record(query_id, sku=sku, verdict=verdict, image=photo)
    return Feedback.objects.get(query_id=query_id)


def promoted(name: str = "shoppers") -> dict[str, Any]:
    job = job_run_here(evaluation_sets.feedback_promote(name=name, user=None))
    assert job.state == JobState.DONE, job.error
    return dict(job.result or {})


class TestUpload:
    def test_a_csv_names_items_or_categories_and_the_rest_is_told_by_row(
        self, photos: list[bytes], data_dir: Path
    ) -> None:
        table = (
            "image,sku,category\n"
            "p/a.jpg,apple-1,\n"
            "p/b.jpg,,Fruit > Apple\n"
            "p/c.jpg,,drink\n"
            "p/d.jpg,nobody,\n"
            "p/gone.jpg,apple-1,\n"
            "p/text.jpg,apple-1,\n"
            "p/a.jpg,apple-2,\n"
            ",apple-1,\n"
            "p/a.jpg,,Nowhere\n"
        )
        entries: dict[str, bytes | str] = {"mine/labels.csv": table, "mine/p/text.jpg": "no picture"}
        entries |= {f"mine/p/{name}.jpg": photos[number] for name, number in zip("abcd", (4, 5, 6, 7))}

        result = brought(entries)

        assert (result["set"], result["evaluation_queries"], result["failed"]) == ("phones", 3, 6)
        assert asked() == {
            ("item", "apple-1", "Fruit > Apple"),
            ("category", "", "Fruit > Apple"),
            ("category", "", "Drink"),
        }
        assert [(error["row"], error["field"]) for error in result["errors"]] == [
            (5, "sku"), (6, "image"), (7, "image"), (8, "image"), (9, "image"), (10, "category"),
        ]  # fmt: skip
        assert "there is no item 'nobody'" in result["errors"][0]["message"]
        assert not list((data_dir / "imports").iterdir())
        assert AuditEvent.objects.get(action="evaluation_set.add").after["queries"] == 3

    def test_folders_are_named_after_skus_or_categories(self, photos: list[bytes]) -> None:
        result = brought(
            {
                "apple-2/a.jpg": photos[4],
                "Fruit/Apple/b.jpg": photos[5],
                "drink/c.jpg": photos[6],
                "Fruit/Pear/d.jpg": photos[7],
                "e.jpg": photos[8],
            }
        )

        assert asked() == {
            ("item", "apple-2", "Fruit > Apple"),
            ("category", "", "Fruit > Apple"),
            ("category", "", "Drink"),
        }
        assert {error["message"] for error in result["errors"]} == {
            "'Fruit/Pear' is neither a SKU nor a category with items",
            "'e.jpg' lies in no folder that says what it shows",
        }

    def test_they_are_asked_while_used_and_never_trained_on(self, photos: list[bytes]) -> None:
        """The second photo is one of the catalogue's own."""
        before = {photo.image_sha256 for photo in training_photos()}
        own_number = next(
            number
            for number in range(3)
            if Item.objects.get(sku=f"apple-{number}").images.get().image_sha256 in before
        )
        result = brought({"apple-0/a.jpg": photos[4], "apple-1/b.jpg": photos[own_number]})
        assert result["in_catalogue"] == 1
        found = EvaluationSet.objects.get()

        assert len(held_out_queries()) == 2
        evaluation_sets.set_use(set_id=found.pk, is_used=False, user=None)
        assert held_out_queries() == []
        own = set(EvaluationQuery.objects.values_list("image_sha256", flat=True))
        assert {photo.image_sha256 for photo in training_photos()} == before - own
        assert len(before & own) == 1

    def test_a_set_does_not_change_which_photos_of_a_category_are_held_out(self, photos: list[bytes]) -> None:
        brought({"Fruit/Apple/a.jpg": photos[4]})

        assert [category.path for category in holding_out._without_splits(["Fruit > Apple"])] == [
            "Fruit > Apple"
        ]

    def test_a_photo_that_is_held_out_already_is_not_asked_twice(self, photos: list[bytes]) -> None:
        brought({"apple-0/a.jpg": photos[4]})
        result = brought({"apple-1/a.jpg": photos[4], "apple-1/b.jpg": photos[5]}, name="other")

        assert result["evaluation_queries"] == 1
        assert "held out already" in result["errors"][0]["message"]

    def test_without_one_usable_photo_there_is_no_set_and_no_file(
        self, photos: list[bytes], data_dir: Path
    ) -> None:
        before = media_files(data_dir)
        result = brought({"nobody/a.jpg": photos[4], "apple-0/b.jpg": b"no picture"})

        assert (result["set"], result["failed"]) == (None, 2)
        assert not EvaluationSet.objects.exists()
        assert media_files(data_dir) == before

    @pytest.mark.parametrize(
        ("data", "told"),
        [
            (zipped({"../a.jpg": b"x"}), "the path leaves the archive"),
            (zipped({"a.zip": b"x"}), "it is an archive itself"),
            (b"not a zip", "not a zip"),
            (b"", "The file is empty"),
        ],
    )
    def test_a_hostile_archive_is_refused_at_the_door(self, data: bytes, told: str, data_dir: Path) -> None:
        with pytest.raises(InvalidInput, match=told):
            evaluation_sets.set_upload(name="phones", chunks=[data], filename="x.zip", user=None)

        assert not Job.objects.filter(kind="import_evaluation").exists()
        assert not list((data_dir / "imports").iterdir())

    @pytest.mark.parametrize("name", ["", "  ", "x" * 61, "half\x00", "PHONES"])
    def test_names_are_short_plain_and_used_once(self, name: str) -> None:
        EvaluationSet.objects.create(name="phones", origin="upload")

        with pytest.raises(InvalidInput, match="name:"):
            evaluation_sets.set_upload(name=name, chunks=[b""], filename="x.zip", user=None)

    def test_a_zip_without_labels_says_what_was_looked_for(self, data_dir: Path) -> None:
        job = evaluation_sets.set_upload(
            name="phones", chunks=[zipped({"read.me": "nothing"})], filename="x.zip", user=None
        )
        job = job_run_here(job)

        assert job.state == JobState.FAILED
        assert "neither a CSV with the column image nor photos in folders" in job.error
        assert not list((data_dir / "imports").iterdir())


class TestFeedback:
    def test_only_photos_called_right_and_kept_with_consent_come_in_and_wait_to_be_looked_at(
        self, photos: list[bytes]
    ) -> None:
        said_right(photos[4])
        said_right(photos[5], verdict="wrong")
        query_log.feedback_record(uuid4(), sku="apple-1", verdict="right")  # without a photo

        result = promoted()

        assert result["evaluation_queries"] == 1
        assert asked() == {("item", "apple-0", "Fruit > Apple")}
        found = EvaluationSet.objects.get()
        assert (found.origin, found.is_used) == ("feedback", False)
        with pytest.raises(InvalidInput, match="No shopper's photo waits"):
            evaluation_sets.feedback_promote(name="again", user=None)

    @pytest.mark.parametrize("how", ["consent ended", "taken back", "called wrong"])
    def test_a_photo_leaves_the_set_with_the_shoppers_word(
        self,
        photos: list[bytes],
        how: str,
        data_dir: Path,
        django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    ) -> None:
        before = media_files(data_dir)
        feedback = said_right(photos[4])
        stays = said_right(photos[5], sku="apple-1")
        promoted()
        assert len(media_files(data_dir)) > len(before)
        if how == "consent ended":
            Feedback.objects.filter(pk=feedback.pk).update(created_at=timezone.now() - timedelta(days=31))
        else:
            verdict = None if how == "taken back" else "wrong"
            query_log.feedback_record(feedback.query_id, sku="apple-0", verdict=verdict)
        with django_capture_on_commit_callbacks(execute=True):
            leftovers_remove()

        assert [query.source for query in EvaluationQuery.objects.all()] == [f"feedback:{stays.pk}"]
        kept = EvaluationQuery.objects.get()
        new = {path.stem for path in media_files(data_dir) - before}
        assert new == {kept.image_sha256}
        assert AuditEvent.objects.get(action="evaluation_set.expire").before == {"queries": 1}

    def test_operators_alone_see_photos_of_sets_and_no_shopper_is_offered_one(
        self, photos: list[bytes]
    ) -> None:
        said_right(photos[4])
        promoted()
        brought({"apple-1/a.jpg": photos[5]})
        queries = list(EvaluationQuery.objects.all())
        clients = {
            "nobody": Client(),
            "staff": session_client(user_make("sam", is_staff=True)),
            "operator": session_client(operator_make()),
        }

        for query in queries:
            url = f"/media/thumbs/{query.image_sha256[:2]}/{query.image_sha256}.jpg"
            seen = {who: client.get(url).status_code for who, client in clients.items()}
            assert seen == {"nobody": 404, "staff": 404, "operator": 200}
            assert clients["operator"].get(url)["Cache-Control"] == "private, no-cache"
        assert shelves._samples() == []
        assert Client().get("/", {"sample": queries[0].pk}).status_code != 500
        with pytest.raises(Exception, match="not in the catalogue any more"):
            shelves.sample_path(str(queries[0].pk))


class TestPages:
    @pytest.fixture
    def operator(self) -> Client:
        return session_client(operator_make())

    def test_a_set_is_brought_used_looked_at_and_deleted_without_scripts(
        self,
        operator: Client,
        photos: list[bytes],
        data_dir: Path,
        django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    ) -> None:
        before = media_files(data_dir)
        file = SimpleUploadedFile(
            "x.zip", zipped({"apple-0/a.jpg": photos[4], "apple-1/b.jpg": photos[5], "no/c.jpg": photos[6]})
        )
        page = operator.post(
            "/ops/evaluation", {"name": " My  phones ", "file": file, "is_used": "yes"}, follow=True
        )
        assert "The photos are being looked at" in page.content.decode()
        job_run_here(Job.objects.get(kind="import_evaluation"))
        found = EvaluationSet.objects.get(name="My phones", is_used=True)
        said = operator.get("/ops/evaluation").content.decode()
        assert "My phones" in said
        assert "2 photos taken, 1 not" in said
        job = Job.objects.get(kind="import_evaluation")
        assert "neither a SKU nor a category" in operator.get(f"/jobs/{job.pk}/").content.decode()

        operator.post(f"/ops/evaluation/{found.pk}/use", {"use": "no"})
        assert not EvaluationSet.objects.get().is_used
        assert "Said to show apple-0" in operator.get(f"/ops/evaluation/{found.pk}/").content.decode()
        query = EvaluationQuery.objects.get(item__sku="apple-0")
        operator.post(f"/ops/evaluation/{found.pk}/remove", {"query": query.pk})
        assert EvaluationQuery.objects.count() == 1
        assert "its 1 photo" in operator.get(f"/ops/evaluation/{found.pk}/delete").content.decode()
        with django_capture_on_commit_callbacks(execute=True):
            operator.post(f"/ops/evaluation/{found.pk}/delete")
        assert not EvaluationSet.objects.exists()
        assert operator.get(f"/ops/evaluation/{found.pk}/").status_code == 404
        told = set(AuditEvent.objects.values_list("action", flat=True))
        assert {f"evaluation_set.{what}" for what in ("add", "use", "remove", "delete")} <= told
        assert {path.stem for path in media_files(data_dir) - before} == {query.image_sha256}

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"name": "phones"}, "Choose a zip first."),
            ({"name": "", "file": b"x"}, "allowed: 1 to 60 plain ones"),
            ({"name": "phones", "file": b"x"}, "it is cut short or not a zip"),
        ],
    )
    def test_what_is_wrong_is_said_beside_the_field(
        self, operator: Client, values: dict[str, Any], told: str
    ) -> None:
        if "file" in values:
            values = values | {"file": SimpleUploadedFile("x.zip", values["file"])}
        page = operator.post("/ops/evaluation", values)

        assert page.status_code == 400
        assert told in page.content.decode()
        assert f'value="{values["name"]}"' in page.content.decode()

    def test_a_set_of_shoppers_photos_is_one_button(self, operator: Client, photos: list[bytes]) -> None:
        said_right(photos[4])
        assert "1 photo of shoppers" in operator.get("/ops/evaluation").content.decode()
        operator.post("/ops/evaluation/feedback", {"name": "shoppers"})
        job_run_here(Job.objects.get(kind="import_evaluation"))

        assert EvaluationSet.objects.get().origin == "feedback"
        assert operator.post("/ops/evaluation/feedback", {"name": "shoppers"}).status_code == 400

    def test_items_that_go_take_their_photos_of_sets_along(self, photos: list[bytes]) -> None:
        brought({"apple-0/a.jpg": photos[4]})
        Item.objects.get(sku="apple-0").delete()

        assert not EvaluationQuery.objects.exists()
