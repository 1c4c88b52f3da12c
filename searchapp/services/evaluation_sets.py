"""Evaluation sets: labelled photos that operators bring, or that shoppers let us keep, to judge versions by.

No photo of a set is ever an entry because of it, and none is trained on while it is in one, whether the set is used or
not. A shopper's photo stays only as long as the shopper's word does: QUERY_IMAGE_RETENTION_DAYS, or until taken back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from searchapp.exceptions import InvalidInput, NotFound
from searchapp.models import EvaluationQuery, EvaluationSet, Feedback, Item, ItemImage, Job
from searchapp.services.archives import archive_check
from searchapp.services.audit import event_record
from searchapp.services.categories import held_out_files
from searchapp.services.import_uploads import zip_upload_store
from searchapp.services.jobs import job_create
from searchapp.services.media import media_remove_unused

KIND = "import_evaluation"
NAME_LENGTH = 60
FROM_FEEDBACK = "feedback:"  # how the source of such a query begins; the feedback's number follows


@dataclass(frozen=True, slots=True)
class SetFacts:
    set: EvaluationSet
    queries: int
    by_item: int
    in_catalogue: int  # those that are photos of the catalogue too


def set_upload(
    *, name: str, chunks: Iterable[bytes], filename: str, is_used: bool = True, user: AbstractBaseUser | None
) -> Job:
    """Take an uploaded zip of labelled photos and start the job that makes a set of it.

    Raises InvalidInput on the field name or file.
    """
    name = name_checked(name)
    source = zip_upload_store(chunks, filename, check=archive_check)
    payload = {"name": name, "source": source, "is_used": is_used}
    return job_create(kind=KIND, payload=payload, user=user, subject=f"Evaluation set {name}")


def feedback_promote(*, name: str, user: AbstractBaseUser | None) -> Job:
    """The job that makes a set of the photos that shoppers called right and let us keep. It is not used until somebody
    has looked at it: what strangers say is not always so.

    Raises InvalidInput on the field name, or when there is no such photo.
    """
    name = name_checked(name)
    if not feedback_waiting().exists():
        raise InvalidInput("No shopper's photo waits: none was called right and kept with consent.")
    payload = {"name": name, "source": "", "is_used": False}
    return job_create(kind=KIND, payload=payload, user=user, subject=f"Evaluation set {name}")


def feedback_waiting() -> QuerySet[Feedback]:
    """Shoppers' photos that are kept with consent, were called right, and are in no set yet; newest first."""
    taken = EvaluationQuery.objects.filter(source__startswith=FROM_FEEDBACK).values_list("source", flat=True)
    numbers = [int(source.removeprefix(FROM_FEEDBACK)) for source in taken]
    return _consented().exclude(pk__in=numbers).order_by("-pk")


def set_facts() -> list[SetFacts]:
    """Every set by name, with counts."""
    by_item = Q(queries__relevance=EvaluationQuery.Relevance.ITEM)
    rows = EvaluationSet.objects.select_related("created_by").annotate(
        total=Count("queries"), of_items=Count("queries", filter=by_item)
    )
    in_catalogue = ItemImage.objects.filter(image_sha256=OuterRef("image_sha256"))
    twice = EvaluationQuery.objects.filter(Exists(in_catalogue)).exclude(evaluation_set=None)
    seen: dict[int, int] = dict(
        twice.order_by().values("evaluation_set").annotate(n=Count("pk")).values_list("evaluation_set", "n")
    )
    return [SetFacts(row, row.total, row.of_items, seen.get(row.pk, 0)) for row in rows]


def set_named(set_id: int) -> EvaluationSet:
    found = EvaluationSet.objects.filter(pk=set_id).first()
    if found is None:
        raise NotFound("There is no such evaluation set any more.")
    return found


@transaction.atomic
def set_use(*, set_id: int, is_used: bool, user: AbstractBaseUser | None) -> EvaluationSet:
    """Ask the set's photos when versions are judged, or leave them be. Twice is the same as once."""
    found = set_named(set_id)
    if EvaluationSet.objects.filter(pk=set_id).exclude(is_used=is_used).update(is_used=is_used):
        _tell("evaluation_set.use", found, user, before={"is_used": not is_used}, after={"is_used": is_used})
    found.is_used = is_used
    return found


@transaction.atomic
def set_delete(*, set_id: int, user: AbstractBaseUser | None) -> None:
    """Delete a set with its photos. What was measured with them stays in the verdicts."""
    found = set_named(set_id)
    queries = list(EvaluationQuery.objects.filter(evaluation_set=found))
    before = {"queries": len(queries), "is_used": found.is_used, "origin": found.origin}
    _tell("evaluation_set.delete", found, user, before=before)
    found.delete()
    _files_remove(queries)


@transaction.atomic
def query_remove(*, set_id: int, query_id: int, user: AbstractBaseUser | None) -> None:
    """Take one photo out of a set, for one that is labelled wrong."""
    found = set_named(set_id)
    query = EvaluationQuery.objects.filter(evaluation_set=found, pk=query_id).first()
    if query is None:
        raise NotFound("That photo is not in the set any more.")
    _tell("evaluation_set.remove", found, user, before=query_note(query))
    query.delete()
    _files_remove([query])


def feedback_expire() -> int:
    """Take shoppers' photos out of sets whose consent has ended or whose word was taken back. Returns how many."""
    kept = {f"{FROM_FEEDBACK}{pk}" for pk in _consented().values_list("pk", flat=True)}
    with transaction.atomic():
        queries = EvaluationQuery.objects.filter(source__startswith=FROM_FEEDBACK)
        gone = [query for query in queries if query.source not in kept]
        if gone:
            EvaluationQuery.objects.filter(pk__in=[query.pk for query in gone]).delete()
            event_record(
                action="evaluation_set.expire",
                actor=None,
                subject="shoppers' photos in evaluation sets",
                before={"queries": len(gone)},
                reason="the consent ended, or the shopper took it back",
            )
            _files_remove(gone)
    return len(gone)


def name_checked(name: str) -> str:
    """The name without blanks around it. Raises InvalidInput when it is empty, too long or taken."""
    name = " ".join(name.split())
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
        raise _name_error(f"it has {len(name)} characters, allowed: 1 to {NAME_LENGTH} plain ones")
    if EvaluationSet.objects.filter(name__iexact=name).exists():
        raise _name_error(f"there is a set {name!r} already")
    return name


def query_note(query: EvaluationQuery) -> dict[str, Any]:
    """What the audit log keeps of a photo that goes."""
    return {"image_sha256": query.image_sha256, "source": query.source, "category": query.category.path}


def _consented() -> QuerySet[Feedback]:
    right = Feedback.objects.filter(verdict=Feedback.Verdict.RIGHT).exclude(image_sha256="")
    return right.filter(Exists(Item.objects.filter(sku=OuterRef("sku"))))


def _tell(
    action: str,
    found: EvaluationSet,
    user: AbstractBaseUser | None,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    subject = f"evaluation set {found.name}"
    event_record(action=action, actor=user, subject=subject, before=before, after=after)


def _files_remove(queries: list[EvaluationQuery]) -> None:
    files = [held_out_files(query) for query in queries]
    transaction.on_commit(lambda: media_remove_unused(files))


def _name_error(problem: str) -> InvalidInput:
    return InvalidInput(f"name: {problem}.", fields={"name": f"{problem}."})
