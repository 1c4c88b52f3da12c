"""What an import tells: counts by item, errors by row, and where it stands if it must go on."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from searchapp.services.import_sources.records import RowProblem

MAX_DUPLICATES = 24  # as with errors
MAX_ERRORS = 500  # the first ones; the counts stay exact


@dataclass(slots=True)
class Current:
    """The item whose photos are being read: it is counted when its last photo is through."""

    sku: str = ""
    existed: bool = False
    changed: bool = False
    good: bool = False
    problem: bool = False


@dataclass(slots=True)
class ImportReport:
    """`position` counts units (photos, held-out photos, unusable rows) that are done."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    images_added: int = 0
    evaluation_queries: int = 0
    duplicates_found: int = 0
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    errors_left_out: int = 0
    position: int = 0
    current: Current = field(default_factory=Current)

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Self:
        return cls(**{**checkpoint, "current": Current(**checkpoint.get("current", {}))})

    def copy(self) -> "ImportReport":
        return replace(
            self, errors=list(self.errors), duplicates=list(self.duplicates), current=replace(self.current)
        )

    def as_checkpoint(self) -> dict[str, Any]:
        return asdict(self)

    def as_result(self) -> dict[str, Any]:
        result = asdict(self)
        del result["position"], result["current"]
        return result

    def error(self, problem: RowProblem) -> None:
        if len(self.errors) < MAX_ERRORS:
            row = {"row": problem.row, "field": problem.field, "message": problem.message[:500]}
            self.errors.append(row)
        else:
            self.errors_left_out += 1

    def duplicate(self) -> bool:
        """Count a photo that looks like one of another item; True when there is room to tell of it."""
        self.duplicates_found += 1
        return len(self.duplicates) < MAX_DUPLICATES

    def begin(self, sku: str, *, existed: bool) -> Current:
        """The state of this item, fresh when it is another one than before."""
        if self.current.sku != sku:
            self.current = Current(sku=sku, existed=existed)
        return self.current

    def end(self) -> None:
        """Count the current item."""
        if not self.current.good:
            self.failed += 1
        elif not self.current.existed:
            self.created += 1
        elif self.current.changed:
            self.updated += 1
        else:
            self.unchanged += 1
        self.current = Current()
