"""What the experiment trains: the two sizes of C1, and one arm for each control of C2.

How settings were chosen stands in docs/results.md. Digits follow the method file: seven by
seven involution, max-pooling, native 28 pixels. Photos follow the product: three by three, strides, 64 pixels.
"""

from dataclasses import dataclass, replace

from ml.base_version.recipe import Recipe
from ml.data.augmentation import AugmentationConfig
from ml.data.sampling import SamplingConfig
from ml.methods.compact_metric import Config
from ml.models.config import CompactConfig, EncoderConfig, ResidualConfig
from ml.training.loop import FitConfig

# Packs of things that look the same mirrored; digits and corridors do not.
MIRRORED = ("fashion_mnist", "grocery", "clothing", "catalog")
BUDGET_WIDTHS = (48, 64, 96, 128)  # method file, section 3.2
SIZE_SEEDS = 3  # of C1 (tier B)
CONTROL_SEEDS = 5  # of C2
FEW_SEEDS = 1  # of the arms that are only described
STUDENT = "distilled-student"
LABEL_NOISE = (0.1, 0.2, 0.4)  # claims.md: a column wherever labels train


@dataclass(frozen=True, slots=True)
class Subject:
    """What an arm's recipe depends on: the data's kind, name, picture size, channels and number of classes."""

    kind: str  # "digits", "pack" or "folder"
    name: str
    size: int
    channels: int
    classes: int


@dataclass(frozen=True, slots=True)
class Arm:
    """One row's configuration. part: "size" (full training, C1) or "control" (short training, C2)."""

    name: str
    part: str
    recipe: Recipe
    seeds: int  # at most
    label_noise: float = 0.0  # share of training labels replaced by another class's, [0, 1)
    teacher: str = ""  # name of the arm whose encoder of the same seed teaches this one


def arms(subject: Subject, *, precision: str, smoke: bool) -> list[Arm]:
    """Every arm for one data set, the claimed ones first."""
    sizes = [
        Arm(name, "size", _sized(subject, name, precision=precision, smoke=smoke), seeds)
        for name, seeds in (("budget", SIZE_SEEDS), ("parity", FEW_SEEDS))
    ]
    if subject.name == "fashion_mnist":
        # The controls are short: does the front layer still matter after long training?
        without = _with_trunk(sizes[0].recipe, front=())
        sizes.append(Arm("budget-no-involution", "size", without, FEW_SEEDS))
    base = _short(subject, precision=precision, smoke=smoke)
    claimed = {
        "one-involution": base,
        "no-involution": _with_trunk(base, front=()),
        "two-involutions": _with_trunk(base, front=("involution",) * 2),
        "three-involutions": _with_trunk(base, front=("involution",) * 3),
        "conv-only": _with_trunk(base, front=("convolution",)),
        "relu": _with_trunk(base, activation="relu"),
        "ce": _with_losses(base, ce=1.0, ms=0.0),
        "ms": _with_losses(base, ce=0.0, ms=1.0),
    }
    described = {
        # Ours, added after one involution had lost to none: with a shortcut nothing of the picture is lost.
        "one-with-shortcut": _with_trunk(base, front_shortcut=True),
        "involution-only": _with_trunk(base, front=(), stage="involution"),
        "involution-after-first": _with_trunk(
            base,
            front_position="after_first", involution_kernel=7, involution_groups=_groups(base), involution_reduction=4,
        ),
        "kernel-3": _with_trunk(base, involution_kernel=3),
        "kernel-5": _with_trunk(base, involution_kernel=5),
        "kernel-7": _with_trunk(base, involution_kernel=7),
        "embedding-32": _with_encoder(base, dimension=32),
        "embedding-64": _with_encoder(base, dimension=64),
        "no-code-head": _with_method(base, code_weight=0.0),
    }  # fmt: skip
    own = base.method.encoder.trunk
    assert isinstance(own, CompactConfig)
    described.pop(f"kernel-{own.involution_kernel}")  # that is the base
    if subject.kind != "digits":  # photos take several times as long
        described = {
            "one-with-shortcut": described["one-with-shortcut"],
            "residual": _with_encoder(base, trunk=ResidualConfig()),
        }
    if smoke:
        claimed, described = dict(list(claimed.items())[:2]), {}
    controls = [
        Arm(name, "control", recipe, CONTROL_SEEDS if name in claimed else FEW_SEEDS)
        for name, recipe in (claimed | described).items()
    ]
    return [*sizes[: 1 if smoke else None], *controls, *([] if smoke else _taught_otherwise(subject, base))]


def _taught_otherwise(subject: Subject, base: Recipe) -> list[Arm]:
    """The base with another source of truth: a teacher for photos, wrong labels for digits."""
    if subject.kind != "digits":
        return [Arm(STUDENT, "control", base, FEW_SEEDS, teacher="residual")]
    return [
        Arm(f"label-noise-{share:.0%}", "control", base, FEW_SEEDS, label_noise=share)
        for share in LABEL_NOISE
    ]


def _sized(subject: Subject, name: str, *, precision: str, smoke: bool) -> Recipe:
    """`parity` or `budget`, trained to be compared with other work."""
    recipe = _recipe(subject, precision=precision, epochs=1 if smoke else _full_epochs(subject))
    if name == "parity":
        return recipe
    encoder = recipe.method.encoder
    trunk = encoder.trunk
    assert isinstance(trunk, CompactConfig)
    # A 3 x 3 involution: the graph of 7 x 7 shifts is 12 kB larger, at the edge of the limit, and slower to train.
    wider = replace(trunk, widths=BUDGET_WIDTHS, involution_kernel=3)
    wide = replace(encoder, trunk=wider, code_hidden=128)
    return replace(recipe, method=replace(recipe.method, encoder=wide))


def _short(subject: Subject, *, precision: str, smoke: bool) -> Recipe:
    """The base of the controls: `parity`, trained as long as a comparison of some forty runs allows."""
    return _recipe(subject, precision=precision, epochs=1 if smoke else _short_epochs(subject))


def _full_epochs(subject: Subject) -> int:
    match subject.name:
        case "fashion_mnist":
            return 14
        case "mnist":
            return 10
        case _:
            return 60


def _short_epochs(subject: Subject) -> int:
    return 5 if subject.kind == "digits" else 12


def _recipe(subject: Subject, *, precision: str, epochs: int) -> Recipe:
    digits = subject.kind == "digits"
    mirrored = (subject.name,) if subject.name in MIRRORED else ()
    trunk = CompactConfig(
        channels=subject.channels,
        involution_kernel=7 if digits else 3,
        strides=(2, 2, 1, 1) if digits else (2, 2, 2, 1),
        downsampling="pool" if digits else "stride",
    )
    per_class = max(2, 250 // subject.classes) if subject.classes < 32 else 4
    return Recipe(
        stored_size=subject.size,
        method=Config(
            encoder=EncoderConfig(
                trunk=trunk,
                input_size=subject.size,
                mean=(0.5,) * subject.channels,
                std=(0.25,) * subject.channels,
            ),
            ms_weight=0.5,
            ms_from_epoch=1,
            scale=6.0 if digits else 16.0,
        ),
        fit=FitConfig(
            epochs=epochs,
            learning_rate=3e-3 if digits else 4e-3,
            warmup_epochs=min(1.5, 0.15 * epochs),
            precision=precision,
            validate_every=4,
        ),
        sampling=SamplingConfig(
            classes_per_batch=min(32, subject.classes),
            images_per_class=per_class,
            frequency_exponent=0.7,
            sizes=((1.0, subject.size),),
            mirrored_packs=mirrored,
        ),
        augmentation=_digit_augmentation(turned=not mirrored) if digits else AugmentationConfig(),
    )


def _digit_augmentation(*, turned: bool) -> AugmentationConfig:
    """Section 5.2 of the method file: shifts and erasing, turning for digits; the object stays in view."""
    return AugmentationConfig(
        min_area=0.85 if turned else 1.0, aspect=0.1 if turned else 0.0, shift=0.07,
        rotation_degrees=10.0 if turned else 0.0,
        brightness=0.0, contrast=0.0, saturation=0.0, erasing=0.1 if turned else 0.25,
    )  # fmt: skip


def _groups(recipe: Recipe) -> int:
    trunk = recipe.method.encoder.trunk
    assert isinstance(trunk, CompactConfig)
    return max(1, trunk.widths[0] // 16)


def _with_trunk(recipe: Recipe, **changes: object) -> Recipe:
    return _with_encoder(recipe, trunk=replace(recipe.method.encoder.trunk, **changes))  # type: ignore[arg-type]


def _with_encoder(recipe: Recipe, **changes: object) -> Recipe:
    encoder = replace(recipe.method.encoder, **changes)  # type: ignore[arg-type]
    return replace(recipe, method=replace(recipe.method, encoder=encoder))


def _with_losses(recipe: Recipe, *, ce: float, ms: float) -> Recipe:
    # Multi-Similarity alone has to start cold: there is nothing to warm up with.
    assert isinstance(recipe.method, Config)
    start = 0 if ce == 0 else recipe.method.ms_from_epoch
    return _with_method(recipe, ce_weight=ce, ms_weight=ms, ms_from_epoch=start)


def _with_method(recipe: Recipe, **changes: object) -> Recipe:
    assert isinstance(recipe.method, Config)
    return replace(recipe, method=replace(recipe.method, **changes))  # type: ignore[arg-type]
