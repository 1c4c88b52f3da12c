"""Why a result is in the answer: in full for the API, and as sentences that everybody understands for pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STAGE_VISUAL = (
    "Found by its picture: {bits} of {total} code bits agree, then ranked by code and embedding together."
)
STAGE_TEXT = "Found by its words: {matched}."
STAGE_REFINED = "Among what looks most alike ({bits} of {total} code bits agree), its words match: {matched}."
STAGE_UNSAID = "Found by what its picture shows ({bits} of {total} code bits agree): {unsaid}"
STAGE_REFINED_UNSAID = "Among what looks most alike ({bits} of {total} code bits agree): {unsaid}"
UNSAID = "nobody wrote “{asked}” of it, but it looks like things that are called so."
PLAIN_ALIKE = "It looks alike: {bits} of {total} visual traits agree."
PLAIN_COMMON = "In common: {tags}."
PLAIN_UNSAID = "Found by what its picture shows: {unsaid}"
PLAIN_REFINED_UNSAID = "It stays because of what its picture shows: {unsaid}"
SHOWN_TAGS = 6


@dataclass(frozen=True, slots=True)
class Reason:
    """why: `why` of the API. plain: the sentences of a page, without codes or versions."""

    why: Mapping[str, Any]
    plain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much of a code agrees, with which entry's: what every reason by a code tells."""

    bits: int
    total: int
    producer: str

    def as_why(self, stage: str, tags: Sequence[str], **parts: str) -> dict[str, Any]:
        return {
            "stage": stage.format(bits=self.bits, total=self.total, **parts),
            "agreeing_bits": self.bits,
            "code_bits": self.total,
            "tags": list(tags),
            "producer": self.producer,
        }

    @property
    def plain(self) -> str:
        return PLAIN_ALIKE.format(bits=self.bits, total=self.total)


def by_picture(agreement: Agreement, tags: Sequence[str]) -> Reason:
    """tags: shared with what was asked about, or with the best match."""
    return Reason(agreement.as_why(STAGE_VISUAL, tags), (agreement.plain, *_in_common(tags)))


def by_words(words: Sequence[str]) -> Reason:
    stage = STAGE_TEXT.format(matched=", ".join(words))
    return Reason({"stage": stage, "tags": list(words)}, (stage,))


def by_what_it_shows(agreement: Agreement, asked: str) -> Reason:
    """Asked for by words of which it has none."""
    unsaid = UNSAID.format(asked=asked)
    why = agreement.as_why(STAGE_UNSAID, (), unsaid=unsaid)
    return Reason(why, (PLAIN_UNSAID.format(unsaid=unsaid),))


def by_picture_and_words(agreement: Agreement, words: Sequence[str], asked: str) -> Reason:
    """words: those of `asked` that it has; without any it stayed for what its picture shows."""
    if words:
        why = agreement.as_why(STAGE_REFINED, words, matched=", ".join(words))
        return Reason(why, (agreement.plain, *_in_common(words)))
    unsaid = UNSAID.format(asked=asked)
    why = agreement.as_why(STAGE_REFINED_UNSAID, (), unsaid=unsaid)
    return Reason(why, (agreement.plain, PLAIN_REFINED_UNSAID.format(unsaid=unsaid)))


def _in_common(tags: Sequence[str]) -> tuple[str, ...]:
    return (PLAIN_COMMON.format(tags=", ".join(tags[:SHOWN_TAGS])),) if tags else ()
