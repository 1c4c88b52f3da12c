"""Finding the photos of other items that a new photo equals: the same content, or a copy that was altered a little.

The same content is known by its SHA-256, of what was uploaded or of what was stored. A copy is looked for among the
photos whose embeddings are nearest, and told from another photo of the same kind by its sketch (services.sketches).
Codes draw the shortlist of a large gallery and decide nothing: those of one learned category are nearly alike.

Measured on the sample packs (benchmarks/near_duplicates.py): of copies at half or double size, as JPEG of quality 30,
a fifth to a quarter brighter or darker, or with up to 10 % cut away, 96.5 % are found: 81 % (8 % cut at one side) to
100 %. Taken for a copy of another item's photo were 7 of 7,541 photos, 0.9 in 1,000, all clothes of one category in one
pose; the embedding alone, at a cosine of 0.95, finds 69 % at 11.8 in 1,000. Framed, turned, stamped, mirrored or grey
copies are mostly missed (found: 1 to 43 %). In the nearest three by embedding was the original of all but 2 in 1,000
copies with that cosine. A limit on the bits that differ found fewer copies and spared no false alarm, so there is none.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from django.db.models import Q

from searchapp.models import ItemImage, ModelVersion, thumbnail_path
from searchapp.services.duplicate_photos import FoundPair, Key, Named, NewPhoto, rows_named
from searchapp.services.intake import UNREADABLE
from searchapp.services.media import media_read
from searchapp.services.nearest_photos import Near, NearestPhotos
from searchapp.services.sketches import Sketch, likeness, sketch_of_file

LEAST_COSINE = 0.85
LEAST_LIKENESS = 0.98
LOOKED_AT = 3
SKETCHES_KEPT = 4096


class DuplicateSearch:
    """Compares the photos of one run with the catalogue and with those met before in the run.

    is_dry: what it meets gets no rows, so it remembers that by itself.
    """

    def __init__(self, *, is_dry: bool = False) -> None:
        self._is_dry = is_dry
        self._nearest = NearestPhotos(is_dry=is_dry)
        self._contents: dict[str, Named] = {}
        self._sketches: OrderedDict[str, Sketch] = OrderedDict()

    def found(self, photos: Sequence[NewPhoto], version: ModelVersion | None) -> list[FoundPair]:
        """At most one pair for each photo, in their order; of two of them that equal one another the later is the new.

        version: the one that encoded them; without one, or while another is in use, only contents are compared.
        Remembers nothing, so a chunk that came to nothing can be asked about again.
        """
        pairs = self._same_content(photos)
        if version is not None:
            rest = [photo for photo in photos if photo.embedding and photo.named.key not in pairs]
            near = self._nearest.nearest(rest, version, least_cosine=LEAST_COSINE, count=LOOKED_AT)
            pairs |= self._alike(rest, near)
        return [pairs[photo.named.key] for photo in photos if photo.named.key in pairs]

    def met(self, photos: Sequence[NewPhoto], version: ModelVersion | None) -> None:
        """These photos are in the catalogue now, or would be: the next ones are compared with them too."""
        self._nearest.met([photo for photo in photos if photo.embedding], version)
        if self._is_dry:
            for photo in photos:
                for sha256 in photo.named.contents:
                    self._contents.setdefault(sha256, photo.named)

    def _same_content(self, photos: Sequence[NewPhoto]) -> dict[Key, FoundPair]:
        """Photos whose content an older photo of another item has: in rows, met in the run, or earlier among them."""
        hashes = {sha256 for photo in photos for sha256 in photo.named.contents}
        stored = ItemImage.objects.filter(Q(upload_sha256__in=hashes) | Q(image_sha256__in=hashes))
        known: dict[str, list[Named]] = {}
        for named in rows_named(stored.order_by("pk")).values():
            _know(known, named)
        for sha256 in hashes & self._contents.keys():
            known.setdefault(sha256, []).append(self._contents[sha256])
        pairs = {}
        for photo in photos:
            owners = [named for sha256 in photo.named.contents for named in known.get(sha256, ())]
            old = next((named for named in owners if named.sku != photo.named.sku), None)
            if old is not None:
                pairs[photo.named.key] = FoundPair(photo.named, old)
            _know(known, photo.named)
        return pairs

    def _alike(self, photos: Sequence[NewPhoto], near: Mapping[Key, Sequence[Near]]) -> dict[Key, FoundPair]:
        """Of each photo's neighbours the one whose picture is most alike, where one is alike enough."""
        image_ids = {hit.photo for hits in near.values() for hit in hits if isinstance(hit.photo, int)}
        names = rows_named(ItemImage.objects.filter(pk__in=image_ids)) if image_ids else {}
        found = (self._most_alike(photo, near.get(photo.named.key, ()), names) for photo in photos)
        return {pair.new.key: pair for pair in found if pair is not None}

    def _most_alike(
        self, photo: NewPhoto, near: Sequence[Near], names: Mapping[int, Named]
    ) -> FoundPair | None:
        seen: list[tuple[Near, Named, Sketch]] = []
        for hit in near:
            if isinstance(hit.photo, NewPhoto):
                old, sketch = hit.photo.named, hit.photo.sketch
            elif hit.photo in names:  # else it was deleted meanwhile
                old = names[hit.photo]
                sketch = self._sketch(old.image_sha256)
            else:
                continue
            if sketch is not None:
                seen.append((hit, old, sketch))
        if photo.sketch is None or not seen:
            return None
        alike = likeness(photo.sketch, np.stack([sketch for _, _, sketch in seen]))
        best = int(alike.argmax())
        if alike[best] < LEAST_LIKENESS:
            return None
        hit, old, _ = seen[best]
        return FoundPair(photo.named, old, hit.bits, round(hit.cosine, 4), round(float(alike[best]), 4))

    def _sketch(self, image_sha256: str) -> Sketch | None:
        """Of a stored photo; the latest ones are kept, for a category's photos are asked for again and again."""
        sketch = self._sketches.pop(image_sha256, None)
        if sketch is None:
            sketch = stored_sketch(image_sha256)
        if sketch is not None:
            self._sketches[image_sha256] = sketch
            if len(self._sketches) > SKETCHES_KEPT:
                self._sketches.popitem(last=False)
        return sketch


def stored_sketch(image_sha256: str) -> Sketch | None:
    """From the thumbnail; None when that cannot be read."""
    try:
        return sketch_of_file(media_read(thumbnail_path(image_sha256)))
    except UNREADABLE:
        return None


def _know(known: dict[str, list[Named]], named: Named) -> None:
    for sha256 in named.contents:
        known.setdefault(sha256, []).append(named)
