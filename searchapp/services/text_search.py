"""Words against the catalogue's own words, by the database: FTS5 on SQLite, tsvector on PostgreSQL.

What a score means here: the share of the query's words that an item's title, description, category or tags hold,
after stemming; a word found only as the beginning of another counts half. It says how much of the question was met, not
how likely the item is what was meant, and "strong" is said only of items that hold every word.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.db import connection
from django.db.models import QuerySet

from ml.retrieval.scoring import Strength
from searchapp.exceptions import InvalidInput
from searchapp.models import Item

MAX_TEXT = 300
MAX_WORDS = 8
FAIR_SHARE = 0.5
# Any-word candidates weighed per wanted result, the database's own best first.
CANDIDATES_PER_RESULT = 4
# Words that say nothing about an item; PostgreSQL drops them by itself, so both databases drop the same few.
STOP_WORDS = frozenset(
    {
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "for",
        "from",
        "i",
        "in",
        "is",
        "it",
        "its",
        "me",
        "my",
        "of",
    }
    | {"on", "or", "that", "the", "this", "to", "was", "with", "you", "your"}
)


@dataclass(frozen=True, slots=True)
class TextMatch:
    """One item that holds at least one of the words. `words` are the query's, as asked."""

    item_id: int
    score: float
    strength: Strength
    words: tuple[str, ...]


def query_words(text: str) -> tuple[str, ...]:
    """The distinct words of a query in order, lower case, at most MAX_WORDS. Raises InvalidInput on none at all.

    Letters and digits of any script are kept and everything else separates, so no character reaches the database's
    query language.
    """
    if len(text) > MAX_TEXT:
        message = f"The text has {len(text)} characters; at most {MAX_TEXT} are allowed."
        raise InvalidInput(message, fields={"text": message})
    found = [word for word in re.findall(r"[^\W_]+", text.lower()) if word.isprintable()]
    if not found:
        message = f"{text[:40]!r} holds no word to look for."
        raise InvalidInput(message, fields={"text": message})
    return tuple(dict.fromkeys(word for word in found if word not in STOP_WORDS))[:MAX_WORDS]


def items_matching(*, words: Sequence[str], among: QuerySet[Item], limit: int) -> list[TextMatch]:
    """The items of `among` that hold most of the words, best first; the database's rank decides between equals.

    Items with every word come first. When they are fewer than `limit`, items with some of them follow, a word also
    counting (half) as the beginning of a longer one, so a typing shopper is never left with nothing.
    """
    if not words:
        return []
    ranked = _ranked(_all_of(words), among, limit)
    if len(ranked) < limit:
        known = set(ranked)
        some = _ranked(_beginnings_of(words), among, limit * CANDIDATES_PER_RESULT)
        ranked += [item_id for item_id in some if item_id not in known]
    found = words_found(words=words, item_ids=ranked)
    matches = [match for item_id in ranked if (match := match_of(item_id, words, found[item_id])).score > 0]
    matches.sort(key=lambda match: -match.score)  # stable: the rank stays the order among equals
    return matches[:limit]


def words_found(*, words: Sequence[str], item_ids: Sequence[int]) -> dict[int, dict[str, float]]:
    """Item id -> the words it holds: 1 for the word itself (or another form of it), 0.5 for a mere beginning."""
    found: dict[int, dict[str, float]] = {item_id: {} for item_id in item_ids}
    if not words or not item_ids:
        return found
    for position, item_id, is_whole in _per_word(words, item_ids):
        weights = found[item_id]
        weights[words[position]] = max(1.0 if is_whole else 0.5, weights.get(words[position], 0.0))
    return found


def words_known(*, words: Sequence[str], apart_from: Collection[int] = ()) -> tuple[str, ...]:
    """Those of the words that any item holds, in some form; a mere beginning of a word is not known.

    apart_from: categories, by id, whose items do not count.
    """
    if not words:
        return ()
    if _is_sqlite():
        one = (
            "SELECT %s WHERE EXISTS (SELECT 1 FROM searchapp_item_text JOIN searchapp_item"
            " ON searchapp_item.id = searchapp_item_text.rowid WHERE searchapp_item_text MATCH %s{})"
        )
    else:
        one = (
            "SELECT %s WHERE EXISTS (SELECT 1 FROM searchapp_item"
            " WHERE to_tsvector('english', searchapp_item.search_text) @@ to_tsquery('english', %s){})"
        )
    listed = ", ".join(str(int(category_id)) for category_id in apart_from)
    one = one.format(f" AND searchapp_item.category_id NOT IN ({listed})" if listed else "")
    values = [value for position, word in enumerate(words) for value in (position, _whole(word))]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join([one] * len(words)), values)
        known = {row[0] for row in cursor.fetchall()}
    return tuple(word for position, word in enumerate(words) if position in known)


def match_of(item_id: int, words: Sequence[str], weights: dict[str, float]) -> TextMatch:
    """What `words_found` says of one item as a match; its score is 0 when it has none of the words."""
    score = sum(weights.values()) / len(words)
    strength: Strength = "strong" if score >= 1 else ("fair" if score >= FAIR_SHARE else "weak")
    return TextMatch(item_id, score, strength, tuple(word for word in words if word in weights))


def _is_sqlite() -> bool:
    return connection.vendor == "sqlite"


def _all_of(words: Sequence[str]) -> str:
    return " ".join(map(_whole, words)) if _is_sqlite() else " & ".join(map(_whole, words))


def _beginnings_of(words: Sequence[str]) -> str:
    return " OR ".join(map(_beginning, words)) if _is_sqlite() else " | ".join(map(_beginning, words))


def _whole(word: str) -> str:
    """One word in the database's query language; words are letters and digits only, quotes keep it from operators."""
    return f'"{word}"' if _is_sqlite() else f"'{word}'"


def _beginning(word: str) -> str:
    return f'"{word}"*' if _is_sqlite() else f"'{word}':*"


def _ranked(expression: str, among: QuerySet[Item], limit: int) -> list[int]:
    """Ids of the items of `among` that match `expression`, best first by the database's rank."""
    inside, parameters = among.order_by().values("pk").query.sql_with_params()
    if _is_sqlite():
        statement = (
            "SELECT rowid FROM searchapp_item_text WHERE searchapp_item_text MATCH %s"  # noqa: S608
            # The plus keeps SQLite from asking the text index once for every item of the subquery.
            f" AND +rowid IN ({inside}) ORDER BY bm25(searchapp_item_text), rowid LIMIT %s"
        )
        values = [expression, *parameters, limit]
    else:
        statement = (
            "SELECT id FROM searchapp_item, to_tsquery('english', %s) asked"  # noqa: S608
            " WHERE to_tsvector('english', search_text) @@ asked"
            f" AND id IN ({inside}) ORDER BY ts_rank(to_tsvector('english', search_text), asked) DESC, id LIMIT %s"
        )
        values = [expression, *parameters, limit]
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [row[0] for row in cursor.fetchall()]


def _per_word(words: Sequence[str], item_ids: Sequence[int]) -> list[tuple[int, int, bool]]:
    """(position of a word, item that holds it, whether as a whole word), for each of `item_ids`, in one query."""
    if _is_sqlite():
        one = "SELECT %s, rowid, %s FROM searchapp_item_text WHERE searchapp_item_text MATCH %s AND +rowid IN ({})"
    else:
        one = (
            "SELECT %s, id, %s FROM searchapp_item"
            " WHERE to_tsvector('english', search_text) @@ to_tsquery('english', %s) AND id IN ({})"
        )
    one = one.format(", ".join(str(int(item_id)) for item_id in item_ids))
    parts: list[str] = []
    values: list[int | str] = []
    for position, word in enumerate(words):
        for is_whole, expression in ((1, _whole(word)), (0, _beginning(word))):
            parts.append(one)
            values += [position, is_whole, expression]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), values)
        return [(row[0], row[1], bool(row[2])) for row in cursor.fetchall()]
