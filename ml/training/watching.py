"""Reads what an encoder's heads make of a batch while a method trains it, without a second forward pass."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.data.sampling import Batch
from ml.models.encoder import TwoHeaded
from ml.training.loop import StepOutput, Trainer


def watched_step(student: Trainer, encoder: TwoHeaded, batch: Batch) -> tuple[StepOutput, Tensor, Tensor]:
    """The student's own step, and the (B, L) code logits and (B, D) unit embeddings it made on the way, float32.

    Read at the heads, which every method runs: a second forward pass would cost time and count the batch twice in
    batch-norm statistics. The hooks are gone afterwards, so no copy of the encoder carries them.
    """
    seen: dict[str, list[Tensor]] = {"code_head": [], "embedding_head": []}
    handles = [
        getattr(encoder, name).register_forward_hook(
            lambda _module, _inputs, outputs, own=own: own.append(outputs)
        )
        for name, own in seen.items()
    ]
    try:
        output = student.training_step(batch)
    finally:
        for handle in handles:
            handle.remove()
    runs = {name: len(own) for name, own in seen.items()}
    if set(runs.values()) != {1}:
        raise RuntimeError(f"the student's step ran its heads {runs} times, expected each once")
    return output, seen["code_head"][0].float(), F.normalize(seen["embedding_head"][0].float(), dim=1)
