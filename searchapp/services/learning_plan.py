"""What one increment is to learn, on which version, and where its job keeps how far it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchapp.models import Category, Deployment, ModelVersion
from searchapp.services.jobs import JobRun

UNITS = 1000
SHARES = {
    "waiting": (0, 20),
    "reading": (20, 250),
    "training": (250, 800),
    "checking": (800, 960),
    "publishing": (960, UNITS),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Categories to learn on `parent` while `live` serves, which it must still do in the end.

    An increment on what serves goes into use at once; one on a candidate waits with it for the promotion.
    """

    parent: ModelVersion
    live: Deployment
    categories: tuple[Category, ...]

    @property
    def goes_live(self) -> bool:
        return self.parent == self.live.version

    @property
    def corrector_digest(self) -> str:
        """Through which corrector the gallery is seen; the embedding head is the parent's, so it fits as before."""
        return self.live.view.corrector_digest if self.goes_live else ""

    @property
    def refusal(self) -> str:
        """How a sentence begins that says why the increment came to nothing."""
        if self.goes_live:
            return "The new version was not put in use"
        return f"{self.parent.name} could not learn what {self.live.version.name} has learned meanwhile"

    @property
    def counted_by(self) -> ModelVersion:
        """Whose view says which codes are counted: of a lineage that serves, it is the serving version's."""
        live = self.live.version
        return live if live.lineage == self.parent.lineage else self.parent


class Notes:
    """The state of one attempt at an increment: the job's whole checkpoint, or one part of it.

    The bar is `bar` units long, of which the increment takes the first UNITS.
    """

    def __init__(self, run: JobRun, *, part: str = "", bar: int = UNITS) -> None:
        self.run, self._part, self._bar = run, part, bar
        self.state: dict[str, Any] = {"stage": "waiting", "history": []}
        self.earlier: list[dict[str, Any]] = self.kept.get("history", [])  # of an attempt before
        self._furthest = max((point["epoch"] for point in self.earlier), default=0)

    @property
    def kept(self) -> dict[str, Any]:
        """What is in the job's row, from this attempt or one before."""
        checkpoint = self.run.checkpoint
        return dict(checkpoint.get(self._part, {})) if self._part else checkpoint

    def enter(self, stage: str, **more: Any) -> None:
        self.save(stage=stage, **more)
        self.progress(stage, 0, 1, stage)

    def save(self, **changes: Any) -> None:
        """An epoch that nobody had come to is a step forward; all else an attempt writes again after a kill."""
        self.state |= changes
        epoch = max((point["epoch"] for point in self.state["history"]), default=0)
        self.put(self.state, is_step=epoch > self._furthest)
        self._furthest = max(self._furthest, epoch)

    def put(self, state: Mapping[str, Any], *, is_step: bool | None = None) -> None:
        """Write `state`, beside what else is in the job's checkpoint."""
        whole = {**self.run.checkpoint, self._part: dict(state)} if self._part else dict(state)
        self.run.save(whole, is_step=is_step)

    def progress(self, stage: str, done: int, total: int, message: str) -> None:
        low, high = SHARES[stage]
        at = low + (high - low) * done // max(1, total)
        self.run.progress(min(at, UNITS - 1), self._bar, message)
