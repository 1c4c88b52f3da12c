"""The category tree: every write keeps paths, the items' search text and the followers in step."""

from contextlib import nullcontext
from types import EllipsisType
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.text import slugify

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import (
    PATH_SEPARATOR,
    Category,
    ChangeKind,
    EvaluationQuery,
    GalleryEntry,
    Item,
    ModelVersion,
    Vertical,
    thumbnail_path,
)
from searchapp.models.catalogue import stored_path
from searchapp.services import audit
from searchapp.services.gallery import Changes, gallery_transaction
from searchapp.services.item_fields import has_control_characters, search_text_refresh
from searchapp.services.media import media_remove_unused
from searchapp.services.relabelling import relabelling

NAME_LENGTH = 120
PATH_LENGTH = 500


def path_parse(path: str) -> tuple[str, ...]:
    """'Fruit > Apple' -> ('Fruit', 'Apple'). Raises InvalidInput on the field `category`."""
    names = tuple(path_normalised(path).split(PATH_SEPARATOR))
    for name in names:
        _check_name(name, field="category", whole=path)
    if len(PATH_SEPARATOR.join(names)) > PATH_LENGTH:
        raise _invalid("category", f"the path has more than {PATH_LENGTH} characters")
    return names


def path_normalised(path: str) -> str:
    """One blank around each >, none at the ends: the form paths are stored in."""
    return PATH_SEPARATOR.join(name.strip() for name in path.split(">"))


def category_ensure(path: str, *, vertical: str | None = None, waits: bool | None = None) -> Category:
    """The category at a path such as 'Fruit > Apple', made with its parents where missing.

    waits: whether a new one waits to be learned; by default when the gallery is in use already.
    Raises InvalidInput when it exists with another vertical than the one asked for.
    """
    if vertical is not None and vertical not in Vertical.values:
        raise _invalid("vertical", f"it is {vertical!r}, allowed: {', '.join(Vertical.values)}")
    names = path_parse(path)
    found = Category.objects.filter(path=PATH_SEPARATOR.join(names)).first()
    category = found or _ensure_each(names, vertical or Vertical.PRODUCT, waits=waits)
    if vertical is not None and category.vertical != vertical:
        raise _invalid(
            "vertical", f"the category {category.path!r} holds {category.vertical}s, not {vertical}s"
        )
    return category


def category_create(
    *, name: str, parent: Category | None = None, vertical: str = Vertical.PRODUCT, slug: str = ""
) -> Category:
    """A new category; its slug is made from the name when none is given. In a gallery that is in use it waits to be
    learned. Raises Conflict when it exists.
    """
    name = name.strip()
    _check_name(name, field="name", whole=name)
    if vertical not in Vertical.values:
        raise _invalid("vertical", f"it is {vertical!r}, allowed: {', '.join(Vertical.values)}")
    with transaction.atomic():
        above = parent and _locked().filter(pk=parent.pk).first()
        if parent and not above:
            raise _invalid("parent", f"{parent.path!r} is gone")
        path = _joined(above, name)
        if Category.objects.filter(path=path).exists():
            raise Conflict(f"There is a category {path!r} already.", fields={"name": "exists already"})
        if slug:
            _check_slug(slug)
        return _create(name, path, above, vertical, slug=slug, waits=None)


def category_update(
    *,
    category: Category,
    name: str | None = None,
    parent: Category | EllipsisType | None = ...,
    vertical: str | None = None,
    user: AbstractBaseUser | None = None,
) -> Category:
    """Rename, move (`parent=None` moves to the root) or change the vertical. The slug stays: models know it.

    Paths of everything beneath and the search text of its items follow in the same transaction.
    """
    if vertical is not None and vertical not in Vertical.values:
        raise _invalid("vertical", f"it is {vertical!r}, allowed: {', '.join(Vertical.values)}")
    with gallery_transaction() as changes:
        category = _locked().get(pk=category.pk)
        category.vertical = vertical or category.vertical
        new_parent = category.parent if isinstance(parent, EllipsisType) else parent
        was, inside = category.path, Item.objects.filter(category__in=Category.objects.subtree(category))
        items = list(inside.values_list("pk", flat=True))
        moving = relabelling(items, action="category.rename", subject=was, user=user)
        will_move = _joined(new_parent, category.name if name is None else name.strip()) != was
        with moving if will_move else nullcontext():
            category_row_move(changes, category, name=name, parent=new_parent)
    return category


def category_row_move(
    changes: Changes, category: Category, *, name: str | None = None, parent: Category | None
) -> None:
    """Give a locked category its name and place, inside the caller's `gallery_transaction`; saves its vertical too."""
    name = category.name if name is None else name.strip()
    _check_name(name, field="name", whole=name)
    _refuse_cycle(category, parent)
    old_path, new_path = category.path, _joined(parent, name)
    if new_path != old_path and Category.objects.filter(path=new_path).exists():
        raise Conflict(f"There is a category {new_path!r} already.", fields={"name": "exists already"})
    category.name, category.parent, category.path = name, parent, new_path
    beneath = list(Category.objects.filter(path__startswith=old_path + PATH_SEPARATOR))
    for child in beneath:
        child.path = new_path + child.path[len(old_path) :]
        _check_path(child.path)
    category.save(update_fields=["name", "parent", "path", "vertical"])
    Category.objects.bulk_update(beneath, ["path"], batch_size=200)
    concerned = Item.objects.filter(category__in=[category.pk, *(child.pk for child in beneath)])
    search_text_refresh(concerned)
    changes.record(ChangeKind.ITEM_CHANGED, list(concerned.values_list("pk", flat=True)))


def category_delete(*, category: Category, user: AbstractBaseUser | None = None) -> None:
    """Delete an empty category. Raises Conflict, with the count, when items or categories are in it."""
    with transaction.atomic():
        category = Category.objects.select_for_update().get(pk=category.pk)
        items, children = category.items.count(), category.children.count()
        if items or children:
            raise Conflict(
                f"{category.path} is not empty: it holds {items:,} items and {children:,} categories. "
                "Move or delete those first."
            )
        held_out = EvaluationQuery.objects.filter(category=category)
        files = [held_out_files(query) for query in held_out]
        audit.event_record(
            action="category.delete",
            actor=user,
            subject=category.path,
            before={"slug": category.slug, "vertical": category.vertical, "evaluation_queries": len(files)},
        )
        category.delete()
        transaction.on_commit(lambda: media_remove_unused(files))


def held_out_files(query: EvaluationQuery) -> tuple[str, tuple[str, ...]]:
    sha256 = query.image_sha256
    return sha256, (stored_path(sha256, query.extension), thumbnail_path(sha256))


@transaction.atomic
def _ensure_each(names: tuple[str, ...], vertical: str, *, waits: bool | None) -> Category:
    """From the root down, each locked before its child is made: a rename waits, and takes the child along."""
    parent: Category | None = None
    for depth, name in enumerate(names, start=1):
        step = PATH_SEPARATOR.join(names[:depth])
        # Renamed while this waited, it is no longer at the path, and the path gets a category of its own.
        parent = _locked().filter(path=step).first() or _create(
            name, step, parent, vertical, slug="", waits=waits
        )
    assert parent is not None
    return parent


def _locked() -> QuerySet[Category]:
    """Rows nobody renames, moves or deletes until the transaction ends; items may still be put in them."""
    return Category.objects.select_for_update(no_key=True)


def _create(
    name: str, path: str, parent: Category | None, vertical: str, *, slug: str, waits: bool | None
) -> Category:
    _check_path(path)
    waits = is_stocked() if waits is None else waits
    fields: Any = {"name": name, "path": path, "parent": parent, "vertical": vertical}
    fields["learn_asked_at"] = timezone.now() if waits else None
    try:
        with transaction.atomic():
            return Category.objects.create(**fields, slug=slug or _free_slug(name, path))
    except IntegrityError:  # somebody else made it, or took the slug, a moment earlier
        found = _locked().filter(path=path).first()
        return found or Category.objects.create(**fields, slug=_free_slug(name, path))


def is_stocked() -> bool:
    """Whether the gallery is in use: a category that comes from now on is a new one, to be learned."""
    return GalleryEntry.objects.exists()


def _free_slug(name: str, path: str) -> str:
    """The name's slug; if another category has it, the path's; if that is taken too, with a number."""
    short, whole = _slug_of(name), _slug_of(path.replace(">", " "))
    taken = set(Category.objects.filter(slug__startswith=short).values_list("slug", flat=True))
    taken |= set(Category.objects.filter(slug__startswith=whole).values_list("slug", flat=True))
    taken |= slugs_learned()
    if short not in taken:
        return short
    number, slug = 2, whole
    while slug in taken:
        slug, number = f"{whole}-{number}", number + 1
    return slug


def slugs_learned() -> set[str]:
    """Slugs some version knows. That of a category that is gone is no other's: it would count as learned."""
    registries = ModelVersion.objects.order_by().values_list("label_registry", flat=True)
    return {slug for registry in registries for slug in registry}


def _slug_of(text: str) -> str:
    return slugify(text.replace("/", " "))[:180] or "category"


def _refuse_cycle(category: Category, parent: Category | None) -> None:
    is_beneath = parent is not None and (
        parent.pk == category.pk or parent.path.startswith(category.path + PATH_SEPARATOR)
    )
    if is_beneath and parent is not None:
        raise _invalid(
            "parent", f"{parent.path!r} lies in {category.path!r}; a category cannot lie in itself"
        )


def _joined(parent: Category | None, name: str) -> str:
    return f"{parent.path}{PATH_SEPARATOR}{name}" if parent else name


def _check_path(path: str) -> None:
    if len(path) > PATH_LENGTH:
        raise _invalid("name", f"the path would have {len(path)} characters, allowed: {PATH_LENGTH}")


def _check_name(name: str, *, field: str, whole: str) -> None:
    if not name or ">" in name or len(name) > NAME_LENGTH or has_control_characters(name):
        raise _invalid(
            field,
            f"{whole[:80]!r}: each name needs 1 to {NAME_LENGTH} characters, no > and no control characters",
        )


def _check_slug(slug: str) -> None:
    is_taken = Category.objects.filter(slug=slug).exists() or slug in slugs_learned()
    if slugify(slug) != slug or len(slug) > 200 or is_taken:
        raise _invalid("slug", f"it is {slug!r}; it must be new and of a-z, 0-9, - and _ alone")


def _invalid(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"The {field} is not right: {problem}.", fields={field: problem})
