"""The four ways to ask: by picture, by words, by an item of the catalogue, by code and embedding.

A picture with words is a refinement: of the REFINE_POOL items that look most alike (inside the filters), those whose
words match come, the ones with more of the words first and the more alike first among equals; then those whose picture
shows what such words are said of, once a version has learned that. Nothing is hidden behind a mixed score: each result
keeps the visual score, and an item with neither is not in the answer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.retrieval import two_stage
from ml.retrieval.columns import EntryFilter
from ml.retrieval.scoring import Hit
from ml.retrieval.two_stage import QueryVectors
from searchapp.exceptions import IncompatibleVersion, InvalidInput, NotFound
from searchapp.models import Item
from searchapp.services import intake, query_drift, serving, text_search, versions, word_search
from searchapp.services.answering import Asked, Found, answered
from searchapp.services.explaining import explained
from searchapp.services.explanations import Explanation
from searchapp.services.gallery_columns import read_entries
from searchapp.services.photo_queries import PhotoQuery, StageClock, photo_encoded
from searchapp.services.search_answers import (
    EXPLAIN_STAGE,
    Result,
    SearchAnswer,
    refined_results,
    text_results,
    visual_results,
)
from searchapp.services.search_options import Scope, SearchOptions, scope_of

REFINE_POOL = 200
EXPLAIN_BEST = ""  # no item has this SKU
# More-like-this asks with at most so many photos of the item, the first ones.
ITEM_PHOTOS = 8


def search_by_image(
    *,
    data: bytes,
    filename: str = "",
    crop: intake.Crop | None = None,
    options: SearchOptions | None = None,
    text: str = "",
    explain: str | None = None,
    visitor: str = "",
) -> SearchAnswer:
    """Items that look like an uploaded picture, refined by `text` if given. Raises what intake raises, Unavailable.

    explain: the SKU of the result whose match is explained, or EXPLAIN_BEST. Raises InvalidInput when it is not
    among the results; without any result there is nothing to explain.
    """
    options = options or SearchOptions()

    def ask(arm: serving.Arm, clock: StageClock, explain: str | None = explain) -> Found:
        scope = scope_of(options)
        words = text_search.query_words(text) if text.strip() else ()
        photo = photo_encoded(arm, clock, data=data, filename=filename, crop=crop)
        if words:
            results = _refined(arm, clock, photo.vectors, scope, words)
        else:
            results = _found(arm, clock, [photo.vectors], options.k, scope.entry_filter())
            query_drift.photo_note(
                arm.version.name, photo.vectors.embedding, results[0].score if results else 0.0
            )
        if explain is None:
            return Found(results)
        return Found(results, _explained(arm, clock, photo, results, explain, is_cropped=crop is not None))

    return answered(Asked("image", options, text.strip(), visitor), ask, in_shadow=partial(ask, explain=None))


def search_by_text(*, text: str, options: SearchOptions | None = None, visitor: str = "") -> SearchAnswer:
    """Items that answer words, by their own and by what their pictures show (services.word_search)."""
    options = options or SearchOptions()

    def ask(arm: serving.Arm, clock: StageClock) -> Found:
        words = text_search.query_words(text)
        scope = scope_of(options)
        with clock.stage("encode"):
            code = word_search.code_of(arm, words)
        with clock.stage("shortlist"):
            matches = word_search.items_matching(words=words, code=code, scope=scope, limit=options.k)
        with clock.stage("rows"):
            return Found(text_results(matches, arm, asked=code.text if code else ""))

    return answered(Asked("text", options, text.strip(), visitor), ask)


def search_by_item(*, sku: str, options: SearchOptions | None = None, visitor: str = "") -> SearchAnswer:
    """Items that look like one of the catalogue, by its stored codes and embeddings: nothing is encoded.

    Each of its first ITEM_PHOTOS photos asks; an item found by several keeps its best. The item itself is left out,
    and one without any entry yet finds nothing. Raises NotFound.
    """
    options = options or SearchOptions()

    def ask(arm: serving.Arm, clock: StageClock) -> Found:
        item = Item.objects.filter(sku=sku).first() if "\x00" not in sku else None
        if item is None:
            raise NotFound(f"There is no item {sku[:120]!r}.", fields={"sku": "unknown"})
        where = scope_of(options).entry_filter(without_items=frozenset({item.pk}))
        return Found(_found(arm, clock, _stored_vectors(arm, item), options.k, where, item=item))

    return answered(Asked("item", options, sku, visitor), ask)


def search_by_vector(
    *,
    code: Any,
    embedding: Any,
    model_version: Any,
    options: SearchOptions | None = None,
) -> SearchAnswer:
    """Items near a code and embedding made elsewhere by a version of the live lineage; the champion answers.

    Raises InvalidInput on malformed values or a missing version, IncompatibleVersion on one that is unknown here or
    outside the lineage.
    """
    options = options or SearchOptions()

    def ask(arm: serving.Arm, clock: StageClock) -> Found:
        vectors = _checked_vectors(arm, code, embedding, model_version)
        return Found(_found(arm, clock, [vectors], options.k, scope_of(options).entry_filter()))

    return answered(Asked("vector", options), ask)


def encode(*, data: bytes, filename: str = "", crop: intake.Crop | None = None) -> dict[str, Any]:
    """Code and embedding of a picture by the live version: `{code, embedding, model_version}`."""
    arm = serving.arm_for()
    vectors = photo_encoded(arm, StageClock(), data=data, filename=filename, crop=crop).vectors
    return {
        "code": vectors.packed_code.tobytes().hex(),
        "embedding": [round(value, 7) for value in vectors.embedding.tolist()],
        "model_version": arm.version.name,
    }


def _found(
    arm: serving.Arm,
    clock: StageClock,
    queries: Sequence[QueryVectors],
    k: int,
    where: EntryFilter,
    *,
    item: Item | None = None,
) -> tuple[Result, ...]:
    hits = _merged([hit for vectors in queries for hit in _hits(arm, clock, vectors, k, where)], k)
    with clock.stage("rows"):
        return visual_results(hits, arm, tags_of=item)


def _hits(
    arm: serving.Arm, clock: StageClock, vectors: QueryVectors, k: int, where: EntryFilter
) -> Sequence[Hit]:
    if not len(arm.view):
        return ()
    outcome = two_stage.search(arm.view, vectors, k=k, where=where, calibrations=arm.calibrations)
    clock.took["shortlist"] += outcome.shortlist_ms
    clock.took["rerank"] += outcome.rerank_ms
    return outcome.hits


def _merged(hits: Sequence[Hit], k: int) -> list[Hit]:
    """Each item once, by its best hit; equal scores by entry id, as within one search."""
    best: dict[int, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.entry_id)):
        best.setdefault(hit.item_id, hit)
    return list(best.values())[:k]


def _refined(
    arm: serving.Arm, clock: StageClock, vectors: QueryVectors, scope: Scope, words: Sequence[str]
) -> tuple[Result, ...]:
    hits = _hits(arm, clock, vectors, REFINE_POOL, scope.entry_filter())
    with clock.stage("rerank"):
        code = word_search.code_of(arm, words)
        kept = word_search.refined(hits, words=words, code=code)
    with clock.stage("rows"):
        return refined_results(kept[: scope.options.k], arm, asked=code.text if code else "")


def _stored_vectors(arm: serving.Arm, item: Item) -> list[QueryVectors]:
    image_ids = list(item.images.values_list("pk", flat=True)[:ITEM_PHOTOS])
    entries = read_entries(arm.version, image_ids=image_ids)
    embeddings = entries.embeddings.astype(np.float32)
    return [QueryVectors(code, embedding) for code, embedding in zip(entries.codes, embeddings)]


def _checked_vectors(arm: serving.Arm, code: Any, embedding: Any, model_version: Any) -> QueryVectors:
    wrong: dict[str, str] = {}
    if not isinstance(model_version, str) or not model_version.strip():
        wrong["model_version"] = "The version that made the code and the embedding is needed, such as 1.0."
    packed = _read(wrong, "code", lambda: _packed_code(code, arm.version.code_bits))
    unit = _read(wrong, "embedding", lambda: _unit_embedding(embedding, arm.version.dimension))
    # Another version's vectors may be of another size: say first that it cannot be compared.
    if "model_version" not in wrong:
        version = versions.version_named(model_version.strip())
        if not versions.lineage_compatible(version, arm.version):
            raise IncompatibleVersion(
                f"Version {version.name} cannot be compared with {arm.version.name}, which answers now: they have no "
                "common lineage. Encode the picture again."
            )
    if wrong or packed is None or unit is None:
        raise InvalidInput(" ".join(f"{name}: {text}" for name, text in wrong.items()), fields=wrong)
    return QueryVectors(packed, unit)


def _read(wrong: dict[str, str], name: str, read: Callable[[], NDArray[Any]]) -> NDArray[Any] | None:
    try:
        return read()
    except ValueError as error:
        wrong[name] = str(error)
        return None


def _packed_code(code: Any, bits: int) -> NDArray[np.uint8]:
    digits = bits // 4
    try:
        packed = (
            bytes.fromhex(code) if isinstance(code, str) and len(code) == digits and code.isascii() else b""
        )
    except ValueError:
        packed = b""
    if len(packed) != bits // 8:
        raise ValueError(f"A code is {digits} hexadecimal digits ({bits} bits).")
    return np.frombuffer(packed, np.uint8)


def _unit_embedding(embedding: Any, dimension: int) -> NDArray[np.float32]:
    is_list = isinstance(embedding, list | tuple) and len(embedding) == dimension
    if not is_list or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in embedding
    ):
        raise ValueError(f"An embedding is a list of {dimension} numbers.")
    try:
        values = np.array(embedding, np.float64)
    except OverflowError:
        values = np.array([np.inf])
    norm = np.linalg.norm(values)
    if not np.isfinite(norm) or norm < 1e-6:
        raise ValueError("An embedding holds finite numbers, not all of them 0.")
    return (values / norm).astype(np.float32)


def _explained(
    arm: serving.Arm,
    clock: StageClock,
    photo: PhotoQuery,
    results: Sequence[Result],
    sku: str,
    *,
    is_cropped: bool,
) -> Explanation | None:
    clock.took[EXPLAIN_STAGE] = 0.0
    chosen = next((result for result in results if sku in (EXPLAIN_BEST, result.sku)), None)
    if chosen is not None:
        return explained(arm, clock, photo, item_id=chosen.item_id, sku=chosen.sku, is_cropped=is_cropped)
    if sku == EXPLAIN_BEST:
        return None
    message = (
        f"{sku[:120]!r} is not among the {len(results)} results; explain one of them, or ask for more (k)."
    )
    raise InvalidInput(message, fields={"explain_sku": message})
