"""Two gloo processes started by torchrun train as one process on the whole batch does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.training.distributed import Processes, Spread, current, joined
from tests.conftest import ROOT
from tests.ml.distributed_fit import EPOCHS, HalfPictures, Pictures, Recorded, losses_of_fit

STEPS = EPOCHS * Pictures.steps_per_epoch


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder the two processes wrote to, and what each of them found."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # Beside other tests the two have seldom failed to find each other; torchrun may try a second time.
    command += ["--max-restarts", "1"]
    done = subprocess.run(
        [*command, "-m", "tests.ml.distributed_fit", str(folder)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return losses_of_fit(Pictures())


def test_two_processes_follow_the_loss_curve_of_one(
    one: dict[str, Any], two: tuple[Path, list[dict[str, Any]]]
) -> None:
    for found in two[1]:
        assert len(found["losses"]) == STEPS
        assert found["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert found["variance"] == pytest.approx(one["variance"], rel=1e-4)
    assert one["losses"][-1] < 0.8 * one["losses"][0]


def test_half_of_each_batch_alone_follows_another_curve(one: dict[str, Any]) -> None:
    """Statistics, pairs or gradients of one process's slice alone would be seen above."""
    half = losses_of_fit(HalfPictures())

    assert max(abs(a / b - 1) for a, b in zip(half["losses"], one["losses"])) > 0.01


def test_both_processes_end_with_the_same_plain_encoder(
    one: dict[str, Any], two: tuple[Path, list[dict[str, Any]]]
) -> None:
    first, second = two[1]

    assert first["digest"] == second["digest"]
    assert first["kinds"] == one["kinds"]
    assert first["best_epoch"] == second["best_epoch"] == one["best_epoch"]


def test_the_first_process_alone_writes_and_reports(two: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (first, second) = two

    assert first["reported"] == list(range(1, EPOCHS + 1))
    assert second["reported"] == []
    assert sorted(path.name for path in folder.iterdir()) == ["0.json", "1.json", "fit.safetensors"]


def test_a_process_that_torchrun_did_not_start_is_alone() -> None:
    gradient = torch.tensor([1.0, 2.0])
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = gradient.clone()
    with joined() as processes:
        processes.average_gradients([parameter])
        processes.wait()

        assert processes == current() == Processes(rank=0, count=1)
        assert processes.is_first
        assert (processes.any(flag=True), processes.any(flag=False)) == (True, False)
        assert processes.of_first(lambda: 0.1) == 0.1
    assert torch.equal(parameter.grad, gradient)


def test_a_batch_that_cannot_be_cut_into_equal_slices_is_refused() -> None:
    trainer = Recorded(seed=0)
    spread = Spread(trainer, Processes(rank=1, count=3))

    with pytest.raises(ValueError, match="a batch of 20 images cannot be shared by 3 processes"):
        spread.training_step(next(Pictures().epoch(0)))
    assert trainer.losses == []
