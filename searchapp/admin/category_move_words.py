"""What merging, splitting and deleting a category mean, in plain words."""

from searchapp.models import Category
from searchapp.services.category_contents import Contents
from searchapp.services.category_moves import Merge

TITLES = {
    "merge": "Merge {} into another category",
    "split": "Split {}",
    "delete_all": "Delete {} with everything in it",
}
UNTOUCHED = (
    "No stored code is changed, and nothing is encoded or learned again: searches find the same photos, "
    "under the other name."
)
GONE = (
    "The photos leave every answer within seconds, their files are removed, and learning no longer builds on "
    "their codes."
)


def counted(number: int, thing: str) -> str:
    if number == 1:
        return f"1 {thing}"
    return f"{number:,} {thing[:-1] + 'ies' if thing.endswith('y') else thing + 's'}"


def contents_told(contents: Contents) -> str:
    """'4 items with 7 photos, 1 category inside and 2 photos kept aside'"""
    parts = [f"{counted(contents.items, 'item')} with {counted(contents.photos, 'photo')}"]
    if contents.categories:
        parts.append(f"{counted(contents.categories, 'category')} inside")
    if contents.held_out:
        parts.append(f"{counted(contents.held_out, 'photo')} kept aside to measure answers")
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def merge_sentences(source: Category, into: Category, contents: Contents) -> list[str]:
    told = [
        f"Everything in {source.path} goes into {into.path}: {contents_told(contents)}.",
        f"The category {source.name} is gone then.",
        UNTOUCHED,
    ]
    if into.learn_asked_at is not None and source.learn_asked_at is None:
        told.append(f"If {into.name} still waits to be learned, what comes from {source.name} waits with it.")
    return [*told, "There is no button to undo it; splitting takes items apart again."]


def merged(source: Category, merge: Merge) -> str:
    told = f"{counted(merge.items, 'item')} with {counted(merge.photos, 'photo')}"
    inside = f" and {counted(merge.categories, 'category')}" if merge.categories else ""
    return f"{source.name} was merged into {merge.into.path}: {told}{inside}. {codes_told(merge.codes)}"


def codes_told(codes: int) -> str:
    return f"{counted(codes, 'stored code')} checked, 0 changed." if codes else "It had no stored codes."


def split_sentences(category: Category, name: str, contents: Contents, present: int) -> list[str]:
    beside, left = f" in {category.parent.path}" if category.parent else "", present - contents.items
    return [
        f"{contents_told(contents)} leave {category.path} for a new category {name}{beside}.",
        f"{counted(left, 'item')} {'stays' if left == 1 else 'stay'} in {category.name}.",
        UNTOUCHED,
    ]


def split(category: Category, new: Category, items: int) -> str:
    return f"{counted(items, 'item')} moved from {category.name} to the new category {new.path}. No code was changed."


def delete_sentences(category: Category, contents: Contents) -> list[str]:
    return [
        f"{category.path} is deleted, and all of it: {contents_told(contents)}.",
        GONE,
        "There is no undo.",
    ]


def deleted(category: Category, contents: Contents) -> str:
    return f"{category.path} was deleted, and all of it: {contents_told(contents)}."
