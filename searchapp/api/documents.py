"""The shapes of requests and answers. Requests are checked with them; answers are only described by them."""

from typing import Any

from rest_framework import serializers

from searchapp.models import Feedback, JobState, SearchState, Vertical
from searchapp.services.candidate_training import METHODS as CANDIDATE_METHODS

Shape = serializers.Serializer[Any]


class Input(Shape):
    """A body whose every key is known; a misspelt one is an error, not a loss."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(self.initial_data) - set(self.fields))
        if unknown:
            allowed = ", ".join(self.fields)
            raise serializers.ValidationError(
                {name[:50]: f"is not a field; allowed: {allowed}" for name in unknown[:10]}
            )
        return attrs


class SearchFilters(Shape):
    k = serializers.IntegerField(min_value=1, max_value=50, default=24)
    category = serializers.CharField(help_text="Slug or whole path; means its subtree.", required=False)
    vertical = serializers.ChoiceField(Vertical.choices, required=False)
    price_min = serializers.FloatField(min_value=0, required=False)
    price_max = serializers.FloatField(min_value=0, required=False)
    tag = serializers.ListField(
        child=serializers.CharField(), help_text="Every tag is required.", required=False
    )


class SearchByImage(SearchFilters):
    image = serializers.ImageField(help_text="JPEG, PNG or WebP, up to 20 MB and 25 megapixels.")
    crop = serializers.CharField(help_text="x,y,w,h as shares of width and height.", required=False)
    text = serializers.CharField(max_length=300, help_text="Words to refine the picture by.", required=False)
    explain = serializers.BooleanField(
        default=False,
        help_text="Also say what in the picture matched the best result; counts as several searches.",
    )
    explain_sku = serializers.CharField(
        max_length=120, help_text="Explain this one of the results instead of the best.", required=False
    )


class SearchByValue(SearchFilters):
    """One of: `text`, `sku`, or `code` with `embedding` and `model_version`."""

    text = serializers.CharField(max_length=300, required=False)
    sku = serializers.CharField(max_length=120, required=False)
    code = serializers.CharField(help_text="Packed code in hexadecimal.", required=False)
    embedding = serializers.ListField(child=serializers.FloatField(), required=False)
    model_version = serializers.CharField(help_text="Who made code and embedding.", required=False)


class Gallery(Shape):
    entries = serializers.IntegerField()
    versions = serializers.DictField(child=serializers.IntegerField())


class Why(Shape):
    stage = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField())


class SearchResult(Shape):
    sku = serializers.CharField()
    title = serializers.CharField()
    category = serializers.CharField()
    image = serializers.CharField(allow_null=True)
    thumbnail = serializers.CharField(allow_null=True)
    score = serializers.FloatField(
        help_text="Calibrated probability that this is what was meant; with words alone, how much of them is met."
    )
    strength = serializers.CharField()
    hamming = serializers.IntegerField(
        allow_null=True, help_text="Differing code bits, if any were compared."
    )
    producer = serializers.CharField(allow_null=True)
    provenance = serializers.CharField(allow_null=True)
    why = Why()


class Explanation(Shape):
    """What in the picture matched one result, found by covering one part of it after another."""

    sku = serializers.CharField()
    rows = serializers.IntegerField()
    columns = serializers.IntegerField()
    heat = serializers.ListField(
        child=serializers.ListField(child=serializers.FloatField(min_value=0, max_value=1)),
        help_text="Rows from the top of the picture (or of its crop), cells from the left; 1 where covering "
        "costs the match most, 0 where it costs nothing.",
    )
    is_flat = serializers.BooleanField(help_text="No part matters enough to be shown; the heat is all 0.")
    summary = serializers.CharField(help_text="The same in words.")
    drops = serializers.ListField(
        child=serializers.ListField(child=serializers.FloatField()),
        required=False,
        help_text="With a key: log-odds of relevance lost when the cell is covered; below 0 the match gains.",
    )
    log_odds = serializers.FloatField(required=False, help_text="With a key: those of the whole picture.")


class SearchAnswer(Shape):
    query_id = serializers.UUIDField()
    model_version = serializers.CharField()
    gallery = Gallery()
    took_ms = serializers.DictField(child=serializers.FloatField())
    results = SearchResult(many=True)
    explanation = Explanation(
        required=False, allow_null=True, help_text="When asked for; null when nothing was found."
    )


class EncodeInput(Shape):
    image = serializers.ImageField()
    crop = serializers.CharField(required=False)


class Encoded(Shape):
    code = serializers.CharField(help_text="Packed code in hexadecimal.")
    embedding = serializers.ListField(child=serializers.FloatField())
    model_version = serializers.CharField()


class Image(Shape):
    id = serializers.IntegerField()
    image = serializers.CharField()
    thumbnail = serializers.CharField()
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    colour = serializers.CharField()
    alt = serializers.CharField(allow_blank=True)
    state = serializers.ChoiceField(SearchState.choices, required=False, help_text="For staff.")
    failure = serializers.CharField(required=False, allow_blank=True, help_text="For staff.")


class ImageInput(Shape):
    image = serializers.ImageField()
    alt = serializers.CharField(required=False, help_text="What it shows, for people who cannot see it.")


class ItemFields(Input):
    """What staff may write: types are checked here, the rest by the catalogue, as for forms and imports."""

    title = serializers.CharField(required=False, allow_blank=True)
    description = serializers.CharField(required=False, allow_blank=True)
    category = serializers.CharField(help_text="Slug or whole path.")
    tags = serializers.ListField(child=serializers.CharField(), required=False)
    price = serializers.DecimalField(12, 2, required=False, allow_null=True)
    currency = serializers.CharField(required=False, allow_blank=True)
    url = serializers.CharField(required=False, allow_blank=True)
    address = serializers.CharField(required=False, allow_blank=True)
    latitude = serializers.FloatField(required=False, allow_null=True)
    longitude = serializers.FloatField(required=False, allow_null=True)


class ItemInput(ItemFields):
    sku = serializers.CharField(max_length=120)


class ItemChange(ItemFields):
    category = serializers.CharField(required=False, help_text="Slug or whole path.")


class Item(ItemInput):
    price = serializers.CharField(allow_null=True)  # type: ignore[assignment]
    category_slug = serializers.CharField()
    vertical = serializers.ChoiceField(Vertical.choices)
    images = Image(many=True)
    state = serializers.ChoiceField(SearchState.choices, required=False, help_text="For staff.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ItemPage(Shape):
    count = serializers.IntegerField()
    page = serializers.IntegerField()
    pages = serializers.IntegerField()
    results = Item(many=True)


class CategoryInput(Input):
    path = serializers.CharField(help_text="Names from the root down: `Fruit > Apple`.")
    vertical = serializers.ChoiceField(Vertical.choices, required=False)


class LearningInput(Input):
    categories = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=200,
        help_text="Slugs of categories that wait; without any, all that wait and have photos.",
    )


class Category(Shape):
    slug = serializers.CharField()
    name = serializers.CharField()
    path = serializers.CharField()
    parent = serializers.CharField(allow_null=True)  # type: ignore[assignment]
    vertical = serializers.ChoiceField(Vertical.choices)
    items = serializers.IntegerField()
    waits = serializers.BooleanField(
        help_text="Whether it came to a gallery in use and is yet to be learned."
    )


class CategoryList(Shape):
    count = serializers.IntegerField()
    results = Category(many=True)


class ImportInput(Shape):
    file = serializers.FileField(help_text="A zip (CSV with images, class folders or a data pack) or a CSV.")
    dry_run = serializers.BooleanField(default=False, help_text="Check and count, write nothing.")
    include_reserved = serializers.BooleanField(default=False, help_text="Also what no weights have seen.")
    items = serializers.ChoiceField(
        ["photos", "folders"], default="photos", help_text="What is one item in class folders."
    )
    splits = serializers.CharField(
        required=False, help_text="Comma-separated; the default is the pack's own."
    )


class Job(Shape):
    id = serializers.UUIDField()
    kind = serializers.CharField()
    subject = serializers.CharField(allow_blank=True)
    state = serializers.ChoiceField(JobState.choices)
    progress = serializers.FloatField(min_value=0, max_value=1)
    eta_seconds = serializers.FloatField(allow_null=True)
    message = serializers.CharField(allow_blank=True)
    result = serializers.DictField(allow_null=True)
    error = serializers.CharField(allow_blank=True)
    attempts = serializers.IntegerField()
    cancel_requested = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class FeedbackInput(Input):
    sku = serializers.CharField(max_length=120)
    verdict = serializers.ChoiceField(Feedback.Verdict.choices)


class Serving(Shape):
    arm = serializers.CharField()
    share = serializers.IntegerField(help_text="Percent of the queries; 0 in the shadow.")
    scope = serializers.DictField(help_text="Where it answers, of a canary; {} is everywhere.")
    shadow = serializers.BooleanField()
    deployment = serializers.IntegerField(help_text="What `POST /rollback` may be told to leave.")


class Version(Shape):
    version = serializers.CharField()
    digest = serializers.CharField()
    parent = serializers.CharField(allow_null=True)  # type: ignore[assignment]
    lineage = serializers.UUIDField()
    method = serializers.CharField()
    architecture = serializers.CharField()
    code_bits = serializers.IntegerField()
    dimension = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    categories_learned = serializers.IntegerField()
    serving = Serving(many=True)
    created_at = serializers.DateTimeField()


class VersionList(Shape):
    count = serializers.IntegerField()
    results = Version(many=True)


class TrainingInput(Input):
    BASE, BASE_ONLY, CANDIDATE_ONLY = (
        ("base", "twin-bottleneck"),
        ("label_fraction", "from_scratch", "promote"),
        ("pilot",),
    )

    method = serializers.ChoiceField(
        [*BASE, *CANDIDATE_METHODS],
        help_text="base, by its other name twin-bottleneck: from the catalogue's own photos. ndpp, odpp, bct: held to "
        "the stored gallery, so that it finds old entries. independent: free of it, in a lineage of its own.",
    )
    config = serializers.DictField(required=False, help_text="Values of the training recipe to change.")
    label_fraction = serializers.FloatField(
        required=False, help_text="Share of the photos whose category training may see: above 0, up to 1."
    )
    architecture = serializers.CharField(
        required=False,
        help_text="parity (of a base unless told otherwise), budget (of all else) or residual.",
    )
    epochs = serializers.IntegerField(
        required=False, allow_null=True, help_text="As many as suit the catalogue unless given."
    )
    scope = serializers.DictField(
        required=False, help_text='Photos of {"category": slug} or {"vertical": name} alone.'
    )
    seed = serializers.IntegerField(required=False)
    pilot = serializers.BooleanField(
        required=False,
        help_text="A tenth of the training first, which says what to expect. The default is true.",
    )
    from_scratch = serializers.BooleanField(
        required=False, help_text="Not from the weights of the version in use."
    )
    promote = serializers.BooleanField(required=False, help_text="Put it in use if its gate passes.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        is_base = attrs["method"] in self.BASE
        for name in self.CANDIDATE_ONLY if is_base else self.BASE_ONLY:
            if name in attrs:
                allowed = "a candidate" if is_base else "a base version"
                raise serializers.ValidationError(
                    {name: f"method is {attrs['method']}; it is for {allowed}."}
                )
        return attrs


class VersionImportInput(Shape):
    file = serializers.FileField(
        help_text="A zip of manifest.json and the safetensors and ONNX files it names."
    )


class RollbackInput(Input):
    deployment = serializers.IntegerField(
        required=False,
        help_text="The one to leave; 409 when it is live no longer. The default is the last one of any kind.",
    )


class CorrectionInput(Input):
    fit_items = serializers.IntegerField(
        required=False,
        help_text="Photos to encode anew for it, 40 to 100000; the default grows with the gallery.",
    )
    version = serializers.CharField(
        required=False, help_text="A candidate of the same lineage; the default is the version in use."
    )
    override = serializers.CharField(
        required=False, max_length=500, help_text="Why it is used although its gate did not pass."
    )


class BackfillInput(Input):
    limit = serializers.IntegerField(required=False, help_text="Photos at most; the default is all.")
    order = serializers.CharField(
        required=False, help_text="error (worst first, the default), oldest or random."
    )


class PromotionInput(Input):
    override = serializers.CharField(
        required=False, max_length=500, help_text="Why it goes in use although a gate did not pass."
    )
    share = serializers.IntegerField(
        required=False, help_text="Percent of the visitors it answers, 1 to 100; the default is all."
    )
    scope = serializers.DictField(
        child=serializers.CharField(),
        required=False,
        help_text='Only queries inside {"category": slug} or {"vertical": name}.',
    )
    shadow = serializers.BooleanField(
        required=False, help_text="Asked beside the version in use, and never shown."
    )
    change_note = serializers.CharField(
        required=False, max_length=2000, help_text="What users are told of the change."
    )
    stop_rule = serializers.DictField(required=False, help_text="When a canary ends by itself.")
    deployment = serializers.IntegerField(
        required=False, help_text="The one in use, as you saw it; 409 when it is live no longer."
    )


class EvaluationInput(Input):
    against = serializers.CharField(
        required=False, help_text="The version to compare with; the default is the one in use."
    )
    set = serializers.CharField(required=False, help_text="The queries of this evaluation set alone.")


class MatrixCell(Shape):
    """The change is this cell's minus the first one's, on the same queries; nothing for the first."""

    query_version = serializers.CharField()
    gallery_state = serializers.ChoiceField(["stored", "corrected", "backfilled", "added_by_candidate"])
    n = serializers.IntegerField()
    map = serializers.FloatField(allow_null=True)
    map_low = serializers.FloatField(allow_null=True)
    map_high = serializers.FloatField(allow_null=True)
    recall_at_1 = serializers.FloatField(allow_null=True)
    recall_at_1_low = serializers.FloatField(allow_null=True)
    recall_at_1_high = serializers.FloatField(allow_null=True)
    recall_at_10 = serializers.FloatField(allow_null=True)
    recall_at_10_low = serializers.FloatField(allow_null=True)
    recall_at_10_high = serializers.FloatField(allow_null=True)
    mrr = serializers.FloatField(allow_null=True)
    mrr_low = serializers.FloatField(allow_null=True)
    mrr_high = serializers.FloatField(allow_null=True)
    change = serializers.DictField(allow_null=True)


class Gate(Shape):
    """It fails when the interval of `value` lies above the threshold, and passes when it lies at or below it."""

    name = serializers.CharField()
    threshold = serializers.FloatField()
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    items = serializers.IntegerField()
    verdict = serializers.ChoiceField(["pass", "fail", "cannot_tell"])


class CategoryChange(Shape):
    slug = serializers.CharField()
    path = serializers.CharField()
    n = serializers.IntegerField()
    before = serializers.FloatField()
    after = serializers.FloatField()
    change = serializers.FloatField()
    low = serializers.FloatField(allow_null=True, help_text="All categories' intervals hold at once.")
    high = serializers.FloatField(allow_null=True)


class Verdict(Shape):
    version = serializers.CharField()
    against = serializers.CharField()
    seed = serializers.IntegerField()
    set = serializers.CharField(allow_blank=True)
    held_out = serializers.CharField(help_text="Which held-out photos were asked.")
    queries = serializers.IntegerField()
    state = serializers.ChoiceField(
        ["stored", "corrected", "backfilled"], help_text="Of the gallery, if this version is put in use."
    )
    corrector_digest = serializers.CharField(allow_blank=True)
    against_corrector_digest = serializers.CharField(
        allow_blank=True, required=False, help_text="Through which the other one served then."
    )
    gallery = serializers.DictField()
    notes = serializers.ListField(child=serializers.CharField())
    matrix = MatrixCell(many=True)
    gates = Gate(many=True)
    flips = serializers.DictField()
    per_category = CategoryChange(many=True)
    chain = serializers.DictField(allow_null=True)
    update_gain = serializers.FloatField(allow_null=True)
    costs = serializers.DictField()
