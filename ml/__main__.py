"""`python -m ml`: train the shipped weights, look into a bundle, export it, run an experiment."""

# isort: off
from ml import threads  # noqa: F401  (must come before numpy, torch and onnxruntime load)
# isort: on

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import GRAPH_FILE, WEIGHTS_FILE, Bundle, load_bundle
from ml.config import merged
from ml.experiments import EXPERIMENTS

if TYPE_CHECKING:
    from ml.base_version.recipe import Recipe
    from ml.training.loop import Progress

EXPORTS = {
    "onnx": GRAPH_FILE,
    "onnx-fp16": "encoder-fp16.onnx",
    "onnx-int8": "encoder-int8.onnx",
    "safetensors": WEIGHTS_FILE,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 on success, 1 when it failed; wrong usage exits with 2."""
    options = _parser().parse_args(arguments)
    try:
        result = options.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result is not None:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ml", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    train = commands.add_parser("train", help="train version 1.0 from data packs and write its bundle")
    train.add_argument("--data", required=True, metavar="DIR[,DIR…]", help="folders that hold the packs")
    train.add_argument("--out", required=True, type=Path, help="bundle directory to write")
    train.add_argument(
        "--architecture", default="parity", choices=("parity", "budget", "residual"),
        help="parity ships as 1.0, budget fills 1 MB, residual is server-size",
    )  # fmt: skip
    train.add_argument(
        "--method", choices=("compact", "twin-bottleneck"),
        help="default: twin-bottleneck, as 1.0 ships; compact with --parent",
    )  # fmt: skip
    train.add_argument(
        "--parent",
        type=Path,
        metavar="BUNDLE",
        help="train a candidate that searches what this version stored",
    )
    train.add_argument(
        "--alignment", choices=("ndpp", "odpp", "bct"), help="how it is held to --parent; default: ndpp"
    )
    train.add_argument("--config", type=Path, help="JSON with the recipe values to change")
    train.add_argument("--checkpoint", type=Path, help="file to save each epoch to and to go on from")
    train.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="default: the faster one on this processor"
    )
    train.add_argument("--compile", action="store_true", help="torch.compile: faster, other rounding")
    train.add_argument("--replace", action="store_true", help="put the new bundle in the place of an old one")
    train.set_defaults(run=_train, usage_error=train.error)

    info = commands.add_parser(
        "info", help="what a bundle is: architecture, bytes, parameters, digest, figures"
    )
    info.add_argument("bundle", type=Path, metavar="DIR")
    info.set_defaults(run=_info)

    export = commands.add_parser("export", help="write a bundle's model as one file")
    export.add_argument("--version", required=True, type=Path, metavar="DIR", help="bundle directory")
    export.add_argument("--format", required=True, choices=sorted(EXPORTS))
    export.add_argument("--out", type=Path, help="file to write (default: the format's usual name, here)")
    export.set_defaults(run=_export)
    _add_experiment(commands.add_parser("experiment", help="measure a method and judge its claims"))
    return parser


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", choices=sorted(EXPERIMENTS), metavar="NAME", help="which experiment"
    )
    parser.add_argument(
        "--data", metavar="DIR[,DIR…]", help="data packs, class folders or folders of MNIST files"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="result file to write")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small arms, 2 seeds, no verdict")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 (default: the experiment's)")
    parser.add_argument("--threads", type=int, default=_threads(), metavar="N", help="threads per process")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the runs")
    parser.add_argument(
        "--ledger", type=Path, default=Path("var/experiments"), help="folder of finished runs"
    )
    parser.add_argument("--only", metavar="ROW", help="measure the rows of this name again, with --seed")
    parser.add_argument("--seed", type=int, metavar="S", help="the seed of --only")
    parser.add_argument("--check", type=Path, metavar="FILE.json", help="count a result's claims again")
    parser.set_defaults(run=_experiment, usage_error=parser.error)


def _threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def _experiment(options: argparse.Namespace) -> dict[str, Any]:
    from ml.experiments.command import run_command  # noqa: PLC0415  (torch and the data readers load slowly)

    return run_command(options)


def _train(options: argparse.Namespace) -> dict[str, Any] | None:
    """None in the further processes that torchrun started: the first one tells for all."""
    _check_training(options)
    # Training needs torch, which takes seconds to load; `info` and `export` do without.
    from ml.training.distributed import joined  # noqa: PLC0415
    from ml.training.memory import keep_freed_memory  # noqa: PLC0415

    keep_freed_memory()
    with joined():
        bundle = _trained_candidate(options) if options.parent else _trained_base(options)
    if bundle is None:
        return None
    return {"bundle": str(bundle.path), "digest": bundle.digest, "metrics": bundle.manifest.metrics}


def _check_training(options: argparse.Namespace) -> None:
    if options.alignment and not options.parent:
        options.usage_error("--alignment is how a candidate is held to its --parent: name one")
    if options.parent and options.method not in (None, "compact"):
        options.usage_error(
            f"--parent with --method {options.method}: candidates are trained by compact alone"
        )
    if options.parent and options.compile:
        options.usage_error("--parent with --compile: a candidate is not trained compiled")


def _trained_base(options: argparse.Namespace) -> Bundle | None:
    from ml.base_version.build import build_bundle  # noqa: PLC0415
    from ml.base_version.recipe import recipe_of  # noqa: PLC0415

    return build_bundle(
        _folders(options),
        options.out,
        _configured(recipe_of(options.architecture, method=options.method or "twin-bottleneck"), options),
        checkpoint=options.checkpoint,
        compiled=options.compile,
        replace=options.replace,
        on_epoch=_show,
    )


def _trained_candidate(options: argparse.Namespace) -> Bundle:
    from ml.base_version.candidate import build_candidate, candidate_recipe  # noqa: PLC0415
    from ml.base_version.recipe import recipe_of  # noqa: PLC0415

    parent = load_bundle(options.parent)
    recipe = candidate_recipe(recipe_of(options.architecture), parent, options.alignment or "ndpp")
    return build_candidate(
        _folders(options),
        options.out,
        _configured(recipe, options),
        parent,
        checkpoint=options.checkpoint,
        replace=options.replace,
        on_epoch=_show,
    )


def _folders(options: argparse.Namespace) -> list[Path]:
    return [Path(part) for part in options.data.split(",")]


def _configured(recipe: "Recipe", options: argparse.Namespace) -> "Recipe":
    """With the precision and the values that the command asks for."""
    from ml.training.memory import fastest_precision  # noqa: PLC0415

    recipe = merged(recipe, {"fit": {"precision": options.precision or fastest_precision()}})
    if options.config:
        recipe = merged(recipe, json.loads(options.config.read_text(encoding="utf-8")), where="recipe")
    return recipe


def _show(progress: "Progress") -> None:
    left = progress.seconds / progress.epoch * (progress.epochs - progress.epoch)
    logs = " ".join(f"{name} {value:.3f}" for name, value in progress.logs.items())
    print(f"epoch {progress.epoch}/{progress.epochs} {logs}, about {left:.0f} s left", file=sys.stderr)


def _info(options: argparse.Namespace) -> dict[str, Any]:
    bundle = load_bundle(options.bundle)
    manifest = bundle.manifest
    return {
        "digest": bundle.digest,
        "method": manifest.method,
        "architecture": manifest.architecture,
        "config": manifest.config,
        "parameters": bundle.parameters,
        "bytes": {name: entry["bytes"] for name, entry in manifest.files.items()},
        "labels": len(manifest.labels),
        "calibration": {name: asdict(values) for name, values in manifest.calibration.items()},
        "metrics": manifest.metrics,
        "training": manifest.training,
    }


def _export(options: argparse.Namespace) -> dict[str, Any]:
    bundle = load_bundle(options.version)
    target = options.out or Path(EXPORTS[options.format])
    match options.format:
        case "onnx":
            data = bundle.graph
        case "onnx-fp16" | "onnx-int8" as smaller:
            from ml.models.quantisation import halve_weights, quantise_weights  # noqa: PLC0415  (loads onnx)

            shrink = halve_weights if smaller == "onnx-fp16" else quantise_weights
            data = shrink(bundle.graph)
        case _:
            data = (bundle.path / WEIGHTS_FILE).read_bytes()
    with target.open("xb") as stream:
        stream.write(data)
    return {"file": str(target), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    sys.exit(main())
