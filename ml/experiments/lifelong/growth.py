"""Claim C6e: what an update costs as the stored codes grow from ten thousand to a million.

Codes are made up, for no photo is needed: 200 label sets, a codeword each, 5 % of its bits flipped from item to
item. What is timed is the training step of the very loop that updates use, in seconds of the processor, for those
of the clock would be a busy neighbour's too. Three things beside it grow with the number of stored codes and stand
apart: counting their statistics anew, the digest of all, and the gate's scan. An epoch does not grow, as
`replay_share` bounds the old items it draws: without that, its steps and its memory would. Texts here are phrases of
labels, as many as there are labels; a catalogue that also trains on a text of each item keeps as many as items.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ml.data.words import WordHasher
from ml.evaluation.hamming import hamming_values
from ml.experiments.claims import Question, Side
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.lifelong.arms import UPDATE
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.lesson import Generation, Items, Texts
from ml.methods.lifelong.memory import ClassMemory
from ml.methods.lifelong.statistics import CodeStatistics, Signs
from ml.methods.lifelong.training import FixedCodeTrainer, SampleStream, Subject, fit_config
from ml.methods.lifelong.update import learn_increment
from ml.training.loop import fit

NAME = SETTING = "growth"
SEEDS = 5
SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
SMOKE_SIZES = {"10k": 10_000, "100k": 100_000}
ROUNDS, SMOKE_ROUNDS = 11, 2
SETS, GROUPS, FEATURES, WORDS = 200, 20, 128, 2048
NEW_CLASSES, NEW_ITEMS = 3, 30
FLIPPED = 0.05  # of a code's bits, against its label set's codeword
GATE_QUERIES = 10
_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Stored:
    """N codes (N, L) of -1 / +1 and their label sets."""

    sets: list[LabelSet]
    codes: Signs


def planned_growth(options: Options) -> list[PlannedRun]:
    """One run per seed; within it all sizes are measured in turns, so that a busy machine is busy for all."""
    sizes = SMOKE_SIZES if options.smoke else SIZES
    rounds = SMOKE_ROUNDS if options.smoke else ROUNDS
    identity = {"sizes": sizes, "rounds": rounds, "config": asdict(UPDATE), "sets": SETS, "new": NEW_ITEMS}
    return [
        PlannedRun(
            name=NAME, setting=SETTING, seed=seed, identity=identity,
            work=partial(measured_growth, sizes, rounds, UPDATE, seed),
        )
        for seed in options.seeds[:SEEDS]
    ]  # fmt: skip


def growth_questions(evidence: Evidence) -> list[Question]:
    """C6e for time and for memory; none without rows."""
    if not any(row["setting"] == SETTING for row in evidence.rows):
        return []
    return [
        Question(
            id="C6e", cell=cell, statistic="step_growth_ratio", setting=SETTING, compare="ratio",
            a=Side(NAME, f"{metric}_1m"), b=Side(NAME, f"{metric}_10k"), target="value <= 1.1", min_seeds=SEEDS,
            note=f"{SETS} label sets at every size; digest, gate and statistics, which grow with the codes, are apart",
        )
        for cell, metric in (("time of a step", "step_ms"), ("memory of a training", "memory_mb"))
    ]  # fmt: skip


def measured_growth(
    sizes: Mapping[str, int], rounds: int, config: LifelongConfig, seed: int, _checkpoint: Path
) -> RunRecord:
    """The row; values end in the titles of `sizes`. Times in seconds but for `step_ms`, memory in megabytes."""
    started = time.monotonic()
    values: dict[str, Value] = {}
    generations: dict[str, Generation] = {}
    for title, size in sizes.items():
        statistics, apart = _counted(stored_codes(size, seed=seed), seed)
        generations[title] = generation_of(statistics, config, seed=seed)
        values |= {f"{name}_{title}": value for name, value in apart.items()}
    values |= step_times(generations, config, seed=seed, rounds=rounds)
    for title, generation in generations.items():
        values |= {f"{name}_{title}": value for name, value in _sizes_of(generation, config, seed).items()}
    return RunRecord(name=NAME, setting=SETTING, seed=seed, values=values, seconds=time.monotonic() - started)


def stored_codes(count: int, *, seed: int) -> Stored:
    """`count` made-up codes; each label set has as many."""
    rng = np.random.default_rng(seed)
    words = rng.choice(np.array([-1, 1], np.int8), size=(SETS, LifelongConfig().code_bits))
    labels = old_sets()
    owner = np.arange(count) % SETS
    codes = words[owner]
    for start in range(0, count, 100_000):
        part = codes[start : start + 100_000]
        np.negative(part, out=part, where=rng.integers(0, 256, part.shape, np.uint8) < FLIPPED * 256)
    return Stored([labels[own] for own in owner], codes)


def old_sets() -> list[LabelSet]:
    """Each class is in one of the groups."""
    return [(number % GROUPS, GROUPS + number) for number in range(SETS)]


def registry_of(classes: int) -> LabelRegistry:
    """Groups, and classes that weigh more."""
    groups = {f"group {number}": 0.3 for number in range(GROUPS)}
    return LabelRegistry().extended(groups | {f"class {number}": 1.0 for number in range(classes)})


def _counted(stored: Stored, seed: int) -> tuple[CodeStatistics, dict[str, Value]]:
    """The statistics, and the seconds of whatever looks at every code."""
    seconds: dict[str, Value] = {}
    with _timed(seconds, "statistics_seconds"):
        statistics = CodeStatistics.of(stored.sets, stored.codes)
    packed = np.packbits(stored.codes > 0, axis=1)
    labels = np.array([own[-1] for own in stored.sets], np.int64)
    with _timed(seconds, "digest_seconds"):
        sha256(packed.tobytes()).hexdigest()
    asking = np.random.default_rng(seed).permutation(len(packed))[:GATE_QUERIES]
    with _timed(seconds, "gate_seconds"):
        hamming_values(packed[asking], labels[asking], packed, labels)
    return statistics, seconds


@contextmanager
def _timed(seconds: dict[str, Value], name: str) -> Iterator[None]:
    started = time.process_time()
    yield
    seconds[name] = round(time.process_time() - started, 5)


def generation_of(statistics: CodeStatistics, config: LifelongConfig, *, seed: int) -> Generation:
    """A parent generation with these statistics, a Gaussian and a phrase for each label set; heads untrained."""
    rng = np.random.default_rng([seed, 1])
    spread = rng.standard_normal((SETS, FEATURES, FEATURES), np.float32) / FEATURES**0.5
    memory = ClassMemory(
        sets=tuple(old_sets()), owner=np.arange(SETS),
        counts=np.array([statistics.tallies[labels].items for labels in old_sets()], np.int64),
        means=rng.standard_normal((SETS, FEATURES), np.float32),
        covariances=spread @ spread.transpose(0, 2, 1) + np.eye(FEATURES, dtype=np.float32),
        pooled=np.eye(FEATURES, dtype=np.float32),
    )  # fmt: skip
    registry = registry_of(SETS)
    phrases = Texts(WordHasher(WORDS)(registry.names), [(place,) for place in range(len(registry))])
    return Generation(
        registry=registry,
        heads=_heads(config, seed=seed),
        statistics=statistics,
        memory=memory,
        texts=phrases,
    )


def _heads(config: LifelongConfig, *, seed: int) -> CrossModalHeads:
    torch.manual_seed(seed)
    return CrossModalHeads(
        FEATURES,
        hidden=config.hidden,
        code_bits=config.code_bits,
        words=WORDS,
        text_hidden=config.text_hidden,
    )


def subject_of(generation: Generation, *, seed: int) -> Subject:
    """An update by NEW_ITEMS items of NEW_CLASSES classes."""
    rng = np.random.default_rng([seed, 2])
    sets = [(place % GROUPS, GROUPS + SETS + place % NEW_CLASSES) for place in range(NEW_ITEMS)]
    items = Items(
        rng.standard_normal((NEW_ITEMS, FEATURES), np.float32),
        sets,
        [f"{place:03d}" for place in range(NEW_ITEMS)],
    )
    return Subject(
        registry_of(SETS + NEW_CLASSES), items, generation.statistics, generation.memory, generation.texts
    )


def step_times(
    generations: Mapping[str, Generation], config: LifelongConfig, *, seed: int, rounds: int
) -> dict[str, Value]:
    """`step_ms_<size>`: milliseconds of a step, the median over rounds of an epoch's time by its steps; what the
    epoch draws and derives from codes is in it. The sizes take turns at being first; a round to warm up does not count.
    """
    titles = list(generations)
    subjects = {title: subject_of(generation, seed=seed) for title, generation in generations.items()}
    found: dict[str, list[float]] = {title: [] for title in titles}
    for turn in range(rounds + 1):
        first = turn % len(titles)
        for title in titles[first:] + titles[:first]:
            found[title].append(1_000 * _step_seconds(subjects[title], config, seed=seed + turn))
    return {f"step_ms_{title}": round(median(times[1:]), 4) for title, times in found.items()}


def _step_seconds(subject: Subject, config: LifelongConfig, *, seed: int) -> float:
    """Of an epoch of an update, by step."""
    trainer = FixedCodeTrainer(subject, config, _heads(config, seed=seed), bridge=None, seed=seed)
    stream = SampleStream(subject, trainer.sets, config, seed=seed)
    schedule = replace(fit_config(config, is_update=True), epochs=1, warmup_epochs=0.0)
    started = time.process_time()
    fit(trainer, stream, schedule)
    return (time.process_time() - started) / stream.steps_per_epoch


def _sizes_of(generation: Generation, config: LifelongConfig, seed: int) -> dict[str, Value]:
    """Bytes that are kept, steps of an epoch, and the memory of a training in a process that knows nothing else."""
    subject = subject_of(generation, seed=seed)
    steps = SampleStream(subject, subject.label_sets(), config, seed=seed).steps_per_epoch
    with TemporaryDirectory() as folder:
        task = Path(folder) / "statistics.safetensors"
        save_file(
            generation.statistics.arrays(), task, {"config": json.dumps(asdict(config)), "seed": str(seed)}
        )
        code = f"from {__name__} import print_memory; print_memory({str(task)!r})"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"the update in a process of its own failed: {done.stderr[-2_000:]}")
    return {"kept_bytes": kept_bytes(generation), "epoch_steps": steps, **json.loads(done.stdout)}


def kept_bytes(generation: Generation) -> int:
    """Of every array and weight a generation holds."""
    assert isinstance(generation.memory, ClassMemory)
    assert generation.texts is not None
    arrays = [
        *generation.statistics.arrays().values(),
        *generation.memory.arrays().values(),
        generation.texts.hashed,
    ]
    weights = generation.heads.state_dict().values()
    return sum(array.nbytes for array in arrays) + sum(int(weight.nbytes) for weight in weights)


def print_memory(task: str) -> None:
    """Megabytes that an update adds to this process at its peak, torch's own parts being loaded already."""
    with safe_open(task, framework="numpy") as stored:
        about = stored.metadata()
    config, seed = LifelongConfig(**json.loads(about["config"])), int(about["seed"])
    statistics = CodeStatistics.from_arrays(load_file(task))
    generation = generation_of(statistics, config, seed=seed)
    subject = subject_of(generation, seed=seed)
    _step_seconds(subject, replace(config, replay_share=1e-3), seed=seed)
    before = _megabytes("VmRSS")
    started = time.process_time()
    learn_increment(generation, subject.registry, subject.items, None, config, seed=seed)
    seconds = time.process_time() - started
    memory = _megabytes("VmHWM") - before
    print(json.dumps({"update_seconds": round(seconds, 3), "memory_mb": round(memory, 2)}))  # noqa: T201


def _megabytes(line: str) -> float:
    """Of this process: VmRSS, resident now, or VmHWM, at most so far. (getrusage would tell of its parent too.)"""
    for found in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if found.startswith(f"{line}:"):
            return int(found.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no line {line}: memory can be measured on Linux alone")
