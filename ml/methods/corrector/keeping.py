"""What joint training with a corrected cache needs to go on after a stop, as plain tensors."""

import torch
from safetensors.torch import load, save
from torch import Tensor

from ml.methods.corrector.joint import CorrectedCache
from ml.methods.corrector.probe import ProbeReport
from ml.methods.corrector.training import CatalogueNegatives

State = dict[str, Tensor]


def kept(negatives: CatalogueNegatives, policy: CorrectedCache) -> State:
    """Everything of both that steps change, with the cache that they do not. Raises ValueError for a policy that
    remembers what was encoded: that is not kept.
    """
    if policy.config.remembered:
        raise ValueError(f"remembered is {policy.config.remembered}, only 0 goes on from a checkpoint")
    encodes = negatives.catalogue.encodes
    optimiser = policy.optimiser.state_dict()["state"]
    reports = [
        (seen.staleness, seen.error, seen.cosine_median, seen.cosine_low, seen.items, seen.constant)
        for seen in policy.watch.reports
    ]
    return {
        "cache": policy.cache,
        "view": policy.view,
        "draws": policy.generator.get_state(),
        "positive_draws": negatives.generator.get_state(),
        "counts": torch.tensor([negatives.step, encodes.trained, encodes.extra, encodes.measured]),
        "reports": torch.tensor(reports, dtype=torch.float64).reshape(len(reports), 6),
        **{f"corrector/{name}": value for name, value in policy.corrector.state_dict().items()},
        **{f"optimiser/{i}/{name}": value for i, own in optimiser.items() for name, value in own.items()},
    }


def restore(negatives: CatalogueNegatives, policy: CorrectedCache, state: State) -> None:
    """Put what `kept` gave into both, newly made over the same catalogue and state["cache"]."""
    encodes = negatives.catalogue.encodes
    negatives.step, encodes.trained, encodes.extra, encodes.measured = state["counts"].tolist()
    negatives.generator.set_state(state["positive_draws"])
    policy.generator.set_state(state["draws"])
    policy.view = state["view"]
    for staleness, error, median, low, items, constant in state["reports"].tolist():
        # Says the same as it did, the alert too.
        policy.watch.look(ProbeReport(staleness, error, median, low, int(items), constant))
    weights, moments = _under(state, "corrector"), _under(state, "optimiser")
    policy.corrector.load_state_dict(weights)
    by_parameter: dict[int, State] = {}
    for name, value in moments.items():
        index, field = name.split("/")
        by_parameter.setdefault(int(index), {})[field] = value
    groups = policy.optimiser.state_dict()["param_groups"]
    policy.optimiser.load_state_dict({"state": by_parameter, "param_groups": groups})


def as_tensor(state: State) -> Tensor:
    """One uint8 tensor that holds all of them."""
    data = save({name: value.detach().clone() for name, value in state.items()})  # two may share their memory
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def from_tensor(packed: Tensor) -> State:
    """What `as_tensor` was given."""
    return load(packed.numpy().tobytes())


def _under(state: State, prefix: str) -> State:
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in state.items()
        if name.startswith(f"{prefix}/")
    }
