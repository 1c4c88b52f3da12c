"""A candidate beside the champion, faults inside its arm, and logged queries of both."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from django.utils import timezone
from numpy.typing import NDArray

from ml.protocol import Encoded, Encoder
from searchapp.models import Click, Deployment, Feedback, GalleryView, Query
from searchapp.services import serving, versions
from tests.searchapp.galleries import shop
from tests.searchapp.trainings import candidate


def canary(photos: Sequence[bytes], **fields: Any) -> Deployment:
    """The shop, and version 2.0 beside the champion 1.0: for everybody, unless `fields` say else."""
    shop(photos)
    return candidate_deployed(**fields)


def candidate_deployed(**fields: Any) -> Deployment:
    version = candidate()
    view, _ = GalleryView.objects.get_or_create(version=version, corrector_digest="")
    return Deployment.objects.create(
        arm=Deployment.Arm.CANDIDATE, version=version, view=view, **{"share": 100, **fields}
    )


class BrokenEncoder:
    """Raises what no code expects."""

    def __init__(self, encoder: Encoder) -> None:
        self.input_size, self.code_bits, self.dimension = (
            encoder.input_size,
            encoder.code_bits,
            encoder.dimension,
        )

    def encode(self, images: NDArray[np.uint8]) -> Encoded:
        raise RuntimeError(f"the graph has no input of that name for {len(images)} photos")


def break_arm(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on this arm of the reference fails at every photo."""
    reference = serving.follow_once()
    arms = tuple(
        replace(arm, encoder=BrokenEncoder(arm.encoder)) if arm.name == name else arm
        for arm in reference.arms
    )
    monkeypatch.setattr(serving._follower, "reference", replace(reference, arms=arms))


def logged(
    count: int,
    deployment: Deployment,
    *,
    begin: datetime | None = None,
    failed: int = 0,
    took_ms: float = 10.0,
    right: int = 0,
    wrong: int = 0,
    clicked: int = 0,
    **fields: Any,
) -> list[Query]:
    """`count` queries of one arm by as many visitors, a second apart since `begin` (an hour ago): the first of them
    failed, the next got feedback and clicks within a minute."""
    start = begin or timezone.now() - timedelta(hours=1)
    rows = [
        Query(
            id=uuid.uuid4(),
            **{
                "kind": "image",
                "version": deployment.version.name,
                "arm": deployment.arm,
                "visitor_hash": uuid.uuid4().hex[:16],
                **fields,
            },
            deployment_id=deployment.pk,
            is_failed=number < failed,
            took_ms={"total": took_ms},
            asked_at=start + timedelta(seconds=number),
        )
        for number in range(count)
    ]
    Query.objects.bulk_create(rows)
    answers = rows[failed:]
    said = [(row, "right") for row in answers[:right]] + [
        (row, "wrong") for row in answers[right : right + wrong]
    ]
    for row, verdict in said:
        made = Feedback.objects.create(query_id=row.pk, sku="apple-0", verdict=verdict)
        Feedback.objects.filter(pk=made.pk).update(created_at=row.asked_at + timedelta(minutes=1))
    for row in answers[:clicked]:
        click = Click.objects.create(query_id=row.pk, sku="apple-0")
        Click.objects.filter(pk=click.pk).update(created_at=row.asked_at + timedelta(minutes=1))
    return rows


def shuffled(
    canary: Deployment, *, failing: dict[str, float], clicked: float = 0.0, count: int = 1000
) -> None:
    """`count` queries by as many visitors within the hour before last, each given to an arm, failing and clicked by a
    seeded chance."""
    rng = np.random.default_rng(0)
    arms = {"champion": champion(), "candidate": canary}
    start = timezone.now() - timedelta(hours=1.5)
    rows, clicks = [], []
    for number in range(count):
        name = "candidate" if rng.random() < 0.5 else "champion"
        row = Query(
            id=uuid.uuid4(), kind="image", version=arms[name].version.name, arm=name,
            deployment_id=arms[name].pk, is_failed=rng.random() < failing[name], took_ms={"total": 10.0},
            asked_at=start + timedelta(seconds=number), visitor_hash=f"{number:016x}",
        )  # fmt: skip
        rows.append(row)
        if rng.random() < clicked:
            clicks.append(Click(query_id=row.pk, sku="apple-0"))
    Query.objects.bulk_create(rows)
    made = Click.objects.bulk_create(clicks)
    asked_at = {row.pk: row.asked_at for row in rows}
    for click in made:
        click.created_at = asked_at[click.query_id] + timedelta(seconds=30)
    Click.objects.bulk_update(made, ["created_at"])


def began(deployment: Deployment, **ago: float) -> Deployment:
    """As if it had begun so long ago (timedelta's words)."""
    Deployment.objects.filter(pk=deployment.pk).update(created_at=timezone.now() - timedelta(**ago))
    deployment.refresh_from_db()
    return deployment


def champion() -> Deployment:
    versions.default_version_ensure()
    return versions.champion()
