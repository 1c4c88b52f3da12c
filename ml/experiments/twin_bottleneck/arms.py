"""What the experiment compares: published forms, ours, what each part is worth, and the simple rivals."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from ml.experiments.twin_bottleneck.heads import HeadConfig
from ml.experiments.twin_bottleneck.trunks import Condition
from ml.methods.twin_bottleneck import Bottlenecks, class_head_alone, published

LENGTHS = (16, 32, 64, 128)
PRODUCT_LENGTH = 128
CLAIMED_SEEDS = 10  # tier A, of the arms that claims name
ALONE_SEEDS = 5  # of the one pack that is judged by itself too, for want of time
DESCRIBED_SEEDS = 3
ABLATION_SEEDS = 1
NOISE_SEEDS = 1
PLAUSIBILITY_SEEDS = 3  # of the data sets that only check plausibility
PLAUSIBILITY_LENGTHS = (32, 128)
FEW_LABELS = (Condition(share=0.1), Condition(share=0.01))
WRONG_LABELS = (Condition(noise=0.1), Condition(noise=0.2), Condition(noise=0.4))

Source = Literal["heads", "itq", "lsh", "classifier", "float"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One row. source: what codes come from: trained heads, a projection of the trunk's features, the sign of an
    embedding trained with labels, or none (float cosine). seeds: at most.
    """

    name: str
    source: Source = "heads"
    settings: Bottlenecks = field(default_factory=Bottlenecks)
    heads: HeadConfig = field(default_factory=HeadConfig)
    seeds: int = DESCRIBED_SEEDS
    has_tags: bool = False  # the class head tells the class and the tags its photos share


SHIPPED = Bottlenecks()
SATBH = published(adversarial_weight=0.01)
TBH = replace(SATBH, class_weight=0.0)
METRIC_ONLY = Bottlenecks(class_weight=0.0, contrast_weight=0.0, divergence_weight=0.0, reconstruct="none")


def main_arms(code_bits: int, *, seeds: int) -> Iterator[Arm]:
    """The arms of C3, C3b and C4 at one code length, and two rivals that are only described."""
    heads = HeadConfig(code_bits=code_bits)
    yield Arm("shipped", settings=SHIPPED, heads=heads, seeds=seeds)
    yield Arm("satbh", settings=SATBH, heads=heads, seeds=seeds)
    yield Arm("tbh", settings=TBH, heads=heads, seeds=seeds)
    yield Arm("jmlh", settings=class_head_alone(), heads=heads, seeds=seeds)
    yield Arm("itq", source="itq", heads=heads, seeds=seeds)
    yield Arm("lsh", source="lsh", heads=heads, seeds=seeds)
    yield Arm(
        "classifier sign", source="classifier", settings=METRIC_ONLY,
        heads=replace(heads, dimension=code_bits), seeds=min(seeds, DESCRIBED_SEEDS),
    )  # fmt: skip
    yield Arm("float cosine", source="float", heads=heads, seeds=1)


def label_arms(condition: Condition) -> Iterator[Arm]:
    """At the product's length, under few or wrong labels."""
    seeds = CLAIMED_SEEDS if condition.share < 1 else NOISE_SEEDS
    for arm in main_arms(PRODUCT_LENGTH, seeds=seeds):
        if arm.name in {"satbh", "jmlh", "float cosine"}:
            yield arm
    yield Arm("shipped", settings=SHIPPED, seeds=min(seeds, DESCRIBED_SEEDS))
    if condition.noise:
        late = replace(SHIPPED, late_class_share=0.5)
        yield Arm("shipped, late eta halved", settings=late, seeds=NOISE_SEEDS)


def ablations() -> Iterator[Arm]:
    """Section 12 of the method file, at the product's length; each differs from its base in what its name says."""
    of_satbh = {
        "eta 0.1": {"class_weight": 0.1},
        "eta 10": {"class_weight": 10.0},
        "lambda 0": {"adversarial_weight": 0.0},
        "lambda 0.1": {"adversarial_weight": 0.1},
        "lambda 1": {"adversarial_weight": 1.0},
        "exponent 1": {"adjacency_exponent": 1.0},
        "exponent 3": {"adjacency_exponent": 3.0},
        "10 nearest": {"adjacency_nearest": 10},
        "residual graph": {"graph_residual": True, "prior": "gaussian"},
        "decoded from the bits": {"reconstruct": "bits"},
        "no graph, no decoder": {"reconstruct": "none"},
        "drawn thresholds": {"random_share": 1.0},
        "class head on z": {"class_head": "embedding"},
        "class heads on both": {"class_head": "both"},
        "balance for critics": {
            "adversarial_weight": 0.0,
            "balance_weight": 0.1,
            "decorrelation_weight": 0.1,
        },
    }
    for name, changes in of_satbh.items():
        yield _varied(f"satbh, {name}", replace(SATBH, **changes))  # type: ignore[arg-type]
    for name, head in {
        "z of 64": HeadConfig(dimension=64), "z of 512": HeadConfig(dimension=512), "batch 100": HeadConfig(batch=100),
    }.items():  # fmt: skip
        yield _varied(f"satbh, {name}", SATBH, heads=head)
    of_shipped = {
        "no reconstruction": {"reconstruct": "none"},
        "reconstruction 2": {"reconstruction_weight": 2.0},
        "graph": {"reconstruct": "graph"},
        "no contrast": {"contrast_weight": 0.0},
        "contrast 0.5": {"contrast_weight": 0.5},
        "no class head": {"class_weight": 0.0},
        "no balance": {"balance_weight": 0.0, "decorrelation_weight": 0.0},
        "drawn thresholds": {"random_share": 1.0},
        "no metric loss": {"ce_weight": 0.0, "ms_weight": 0.0},
        "CE alone": {"ms_weight": 0.0},
        "MS alone": {"ce_weight": 0.0, "ms_from_epoch": 0},
        "codes follow embeddings": {"relation_weight": 2.0},
    }
    for name, changes in of_shipped.items():
        yield _varied(f"shipped, {name}", replace(SHIPPED, **changes))  # type: ignore[arg-type]
    yield _varied("satbh, tags", SATBH, has_tags=True)
    yield _varied("shipped, tags", SHIPPED, has_tags=True)
    yield _varied("shipped, classes alike", SHIPPED, heads=HeadConfig(class_exponent=0.0))
    yield _varied("shipped, rare classes first", SHIPPED, heads=HeadConfig(class_exponent=-0.5))


def _varied(
    name: str, settings: Bottlenecks, *, heads: HeadConfig | None = None, has_tags: bool = False
) -> Arm:
    return Arm(name, settings=settings, heads=heads or HeadConfig(), seeds=ABLATION_SEEDS, has_tags=has_tags)
