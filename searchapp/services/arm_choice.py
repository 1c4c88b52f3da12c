"""Which queries a candidate answers: a share of the visitors, a part of the catalogue, or none but in the shadow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from searchapp.exceptions import InvalidInput
from searchapp.models import PATH_SEPARATOR, Category, Deployment, Vertical
from searchapp.services.search_options import SearchOptions

WHOLE = 100
_GRAINS = 10_000  # a hundredth of a percent
SCOPE_KINDS = ("category", "vertical")


@dataclass(frozen=True, slots=True)
class Portion:
    """The queries that go to a candidate.

    seed: which visitors a share takes; a share that is raised keeps those it had. scope: {}, {"category": slug} or
    {"vertical": name}.
    """

    seed: int
    share: int = WHOLE
    scope: Mapping[str, str] = field(default_factory=dict)
    is_shadow: bool = False

    @property
    def divides_visitors(self) -> bool:
        """Whether some visitors meet the candidate and others do not."""
        return not self.is_shadow and self.share < WHOLE

    def takes(self, visitor: str, options: SearchOptions | None) -> bool:
        """Whether the candidate answers this visitor's query; never that of somebody who is not known."""
        return not self.is_shadow and self._has_visitor(visitor) and self.covers(options)

    def covers(self, options: SearchOptions | None) -> bool:
        """Whether the query's filters lie inside the scope."""
        if not self.scope:
            return True
        return options is not None and _lies_inside(options, self.scope)

    def _has_visitor(self, visitor: str) -> bool:
        digest = sha256(f"{self.seed}\n{visitor}".encode()).digest()
        return bool(visitor) and int.from_bytes(digest[:8]) % _GRAINS < self.share * (_GRAINS // WHOLE)


def portion_of(deployment: Deployment) -> Portion | None:
    """What a candidate answers; None for the champion, which answers the rest."""
    if deployment.arm == Deployment.Arm.CHAMPION:
        return None
    return Portion(_seed(deployment), deployment.share, deployment.scope, deployment.is_shadow)


def _seed(deployment: Deployment) -> int:
    """The first of the deployments in a row that only changed how much of the traffic this version gets."""
    first = deployment
    while first.previous is not None and first.previous.arm == Deployment.Arm.CANDIDATE:
        first = first.previous
    return first.pk


def scope_checked(scope: Mapping[str, Any] | None) -> dict[str, str]:
    """The scope as it is kept: a category by its slug, or a vertical. Raises InvalidInput (fields: scope)."""
    if not scope:
        return {}
    if len(scope) != 1 or next(iter(scope)) not in SCOPE_KINDS:
        raise _invalid(f"it is {dict(scope)!r:.80}, allowed: one of {', '.join(SCOPE_KINDS)}")
    kind, value = next(iter(scope.items()))
    if kind == "vertical":
        if value not in Vertical.values:
            raise _invalid(f"vertical is {value!r:.60}, allowed: {', '.join(Vertical.values)}")
        return {"vertical": str(value)}
    category = _category(value) if isinstance(value, str) and "\x00" not in value else None
    if category is None:
        raise _invalid(f"there is no category {value!r:.100}; give its slug or its whole path")
    return {"category": category.slug}


def scope_words(scope: Mapping[str, str]) -> str:
    """For people: "Fruit > Apple", "landmarks"; "" for no scope."""
    if "vertical" in scope:
        return f"{scope['vertical']}s"
    if "category" not in scope:
        return ""
    category = Category.objects.filter(slug=scope["category"]).first()
    return category.path if category else scope["category"]


def _lies_inside(options: SearchOptions, scope: Mapping[str, str]) -> bool:
    asked = _category(options.category) if options.category else None
    if "vertical" in scope:
        vertical = options.vertical or (asked.vertical if asked else None)
        return vertical == scope["vertical"]
    wanted = Category.objects.filter(slug=scope["category"]).first()
    if asked is None or wanted is None:
        return False
    return f"{asked.path}{PATH_SEPARATOR}".startswith(f"{wanted.path}{PATH_SEPARATOR}")


def _category(name: str) -> Category | None:
    return Category.objects.filter(slug=name).first() or Category.objects.filter(path=name).first()


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(f"scope: {problem}.", fields={"scope": f"{problem}."})
