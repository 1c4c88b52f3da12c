"""Which queries a candidate answers: a share of the visitors, a part of the catalogue, or none but in the shadow."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    {"vertical": name}. inside: names of the categories of the scope, as a filter may have them; looked up
    beforehand, so that no query has to.
    """

    seed: int
    share: int = WHOLE
    scope: Mapping[str, str] = field(default_factory=dict)
    is_shadow: bool = False
    inside: frozenset[str] = frozenset()

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
        if options is None:
            return False
        if "vertical" in self.scope and options.vertical:
            return options.vertical == self.scope["vertical"]
        return options.category in self.inside

    def _has_visitor(self, visitor: str) -> bool:
        digest = sha256(f"{self.seed}\n{visitor}".encode()).digest()
        return bool(visitor) and int.from_bytes(digest[:8]) % _GRAINS < self.share * (_GRAINS // WHOLE)


def portion_of(deployment: Deployment) -> Portion | None:
    """What a candidate answers; None for the champion, which answers the rest."""
    if deployment.arm == Deployment.Arm.CHAMPION:
        return None
    scope = deployment.scope
    return Portion(_seed(deployment), deployment.share, scope, deployment.is_shadow, _names_inside(scope))


def portion_followed(portion: Portion | None) -> Portion | None:
    """With the categories of its scope as they are now."""
    if portion is None or not portion.scope:
        return portion
    return replace(portion, inside=_names_inside(portion.scope))


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


def _names_inside(scope: Mapping[str, str]) -> frozenset[str]:
    """Slugs and paths of its categories; a path that is the slug of another category means that one."""
    if not scope:
        return frozenset()
    rows = list(Category.objects.values_list("slug", "path", "vertical"))
    top = next((path for slug, path, _ in rows if slug == scope.get("category")), None)
    inside = [
        (slug, path)
        for slug, path, vertical in rows
        if vertical == scope.get("vertical")
        or (top is not None and f"{path}{PATH_SEPARATOR}".startswith(f"{top}{PATH_SEPARATOR}"))
    ]
    paths = {path for _, path in inside} - {slug for slug, _, _ in rows}
    return frozenset(paths.union(slug for slug, _ in inside))


def _category(name: str) -> Category | None:
    return Category.objects.filter(slug=name).first() or Category.objects.filter(path=name).first()


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(f"scope: {problem}.", fields={"scope": f"{problem}."})
