"""Makes an evaluation set of uploaded or shoppers' photos: the handler of "import_evaluation"."""

import hashlib
import shutil
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from searchapp.exceptions import BadImage, InvalidInput, LeaseLost
from searchapp.models import EvaluationQuery, EvaluationSet, Item, ItemImage
from searchapp.services import intake
from searchapp.services.archives import archive_unpack
from searchapp.services.audit import event_record
from searchapp.services.evaluation_reading import Label, Labelled, labelled_read, labels_found, photo_root
from searchapp.services.evaluation_sets import FROM_FEEDBACK, feedback_waiting, name_checked
from searchapp.services.import_report import MAX_ERRORS
from searchapp.services.import_sources.records import PhotoFolder, RowProblem
from searchapp.services.import_uploads import import_source_path, import_upload_remove
from searchapp.services.intake import StoredImage
from searchapp.services.jobs import JobRun
from searchapp.services.media import media_remove_unused
from searchapp.services.query_log import query_image_path

MOST_PHOTOS = 5_000


@dataclass(frozen=True, slots=True)
class _Offered:
    """A photo with its label. `source` is empty for one that was uploaded."""

    row: int
    label: Label
    data: bytes
    source: str = ""


@dataclass(slots=True)
class _Taken:
    """Photos that will be asked, and rows that cannot be used."""

    queries: list[EvaluationQuery] = field(default_factory=list)
    stored: list[StoredImage] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    uploads: set[str] = field(default_factory=set)


def evaluation_import_run(run: JobRun) -> dict[str, Any]:
    """All usable photos become one set, in one transaction; the report tells of the others by row.

    A retry begins anew. When no photo can be used there is no set.
    """
    if "set" in run.checkpoint:  # killed between the set and the last word
        return run.checkpoint
    source = str(run.payload["source"])
    taken = _Taken()
    try:
        name_checked(run.payload["name"])
        offered = _feedback_offered(taken) if source == "" else _upload_offered(run, source, taken)
        with closing(offered) as photos:
            for photo in photos:
                _take(photo, taken)
        result = _written(run, taken)
    except LeaseLost:  # whoever has the job now stores the same files
        raise
    except BaseException as error:
        _unstore(taken, kept=set())
        if isinstance(error, InvalidInput) and run.held().exists():
            import_upload_remove(source)
        raise
    _unstore(taken, kept={query.image_sha256 for query in taken.queries})
    import_upload_remove(source)
    return result


def _upload_offered(run: JobRun, source: str, taken: _Taken) -> Generator[_Offered]:
    with _unpacked(run, source) as folder:
        rows = labelled_read(folder)
        if len(rows) > MOST_PHOTOS:
            message = f"it names {len(rows):,} photos, allowed: {MOST_PHOTOS:,}"
            raise InvalidInput(f"The evaluation set is too large: {message}.", fields={"file": message})
        taken.problems += [row for row in rows if isinstance(row, RowProblem)]
        labels = labels_found([row for row in rows if isinstance(row, Labelled)])
        photos = PhotoFolder.at(photo_root(folder))
        for done, (labelled, label) in enumerate(labels.items()):
            run.progress(done, len(labels), "looking at the photos")
            if isinstance(label, RowProblem):
                taken.problems.append(label)
                continue
            try:
                yield _Offered(labelled.photo.row, label, photos.read(labelled.photo.name))
            except (InvalidInput, BadImage) as error:
                taken.problems.append(RowProblem(labelled.photo.row, "image", error.message))


@contextmanager
def _unpacked(run: JobRun, source: str) -> Iterator[Path]:
    workspace = Path(settings.IMPORT_DIR) / f"{run.job.pk}.{run.job.fence}"
    try:
        archive_unpack(import_source_path(source), workspace)
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _feedback_offered(taken: _Taken) -> Generator[_Offered]:
    waiting = list(feedback_waiting()[:MOST_PHOTOS])
    items = {
        item.sku: item
        for item in Item.objects.filter(sku__in={row.sku for row in waiting}).select_related("category")
    }
    for feedback in waiting:
        try:
            data = query_image_path(feedback.image_sha256).read_bytes()
        except FileNotFoundError:
            taken.problems.append(RowProblem(feedback.pk, "image", "the photo is gone"))
            continue
        item = items.get(feedback.sku)
        if item is not None:
            yield _Offered(feedback.pk, Label(item.category, item), data, f"{FROM_FEEDBACK}{feedback.pk}")


def _take(photo: _Offered, taken: _Taken) -> None:
    upload = hashlib.sha256(photo.data).hexdigest()
    if upload in taken.uploads:
        taken.problems.append(RowProblem(photo.row, "image", "the same photo is in the set already"))
        return
    taken.uploads.add(upload)
    try:
        stored = intake.image_store(photo.data)
    except BadImage as error:
        taken.problems.append(RowProblem(photo.row, "image", error.message))
        return
    taken.stored.append(stored)
    asked = EvaluationQuery.objects.filter(image_sha256=stored.image_sha256).first()
    if asked is not None:
        problem = f"the same photo is held out already, as {asked.source[:120]!r}"
        taken.problems.append(RowProblem(photo.row, "image", problem))
        return
    is_item = photo.label.item is not None
    taken.queries.append(
        EvaluationQuery(
            source=photo.source,
            image_sha256=stored.image_sha256,
            upload_sha256=stored.upload_sha256,
            extension=stored.extension,
            relevance=EvaluationQuery.Relevance.ITEM if is_item else EvaluationQuery.Relevance.CATEGORY,
            item=photo.label.item,
            category=photo.label.category,
        )
    )


def _written(run: JobRun, taken: _Taken) -> dict[str, Any]:
    name, is_feedback = run.payload["name"], run.payload["source"] == ""
    problems = sorted(taken.problems, key=lambda problem: problem.row)
    result: dict[str, Any] = {
        "set": name if taken.queries else None,
        "evaluation_queries": len(taken.queries),
        "failed": len(problems),
        "in_catalogue": _in_catalogue(taken.queries),
        "errors": [
            {"row": problem.row, "field": problem.field, "message": problem.message[:500]}
            for problem in problems[:MAX_ERRORS]
        ],
        "errors_left_out": max(0, len(problems) - MAX_ERRORS),
    }
    if not taken.queries:
        return result
    origin = EvaluationSet.Origin.FEEDBACK if is_feedback else EvaluationSet.Origin.UPLOAD
    try:
        with transaction.atomic():
            run.guard()
            made = EvaluationSet.objects.create(
                name=name, origin=origin, is_used=run.payload["is_used"], created_by=run.job.created_by
            )
            for query in taken.queries:
                query.evaluation_set, query.split = made, origin
                query.source = query.source or f"set-{made.pk}:{query.upload_sha256}"
            EvaluationQuery.objects.bulk_create(taken.queries, batch_size=500)
            event_record(
                action="evaluation_set.add",
                actor=run.job.created_by,
                subject=f"evaluation set {name}",
                after={"queries": len(taken.queries), "origin": origin, "is_used": made.is_used},
            )
            run.save(result)
    except IntegrityError as error:
        message = f"there is a set {name!r} already, or a photo was held out elsewhere meanwhile"
        raise InvalidInput(f"{message}.", fields={"name": f"{message}."}) from error
    return result


def _in_catalogue(queries: list[EvaluationQuery]) -> int:
    asked = {query.image_sha256 for query in queries}
    rows = ItemImage.objects.filter(image_sha256__in=asked)
    return rows.values("image_sha256").distinct().count()


def _unstore(taken: _Taken, *, kept: set[str]) -> None:
    media_remove_unused(
        (stored.image_sha256, stored.files) for stored in taken.stored if stored.image_sha256 not in kept
    )
