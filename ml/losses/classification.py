"""Cross-entropy on a cosine classifier: the class head a retrieval encoder is trained with and then loses."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def cosine_cross_entropy(
    embeddings: Tensor, class_weights: Tensor, labels: Tensor, *, scale: float, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy (nats) of softmax(scale * cosine(embedding, class weight)).

    embeddings: (B, D); class_weights: (C, D); both are normalised here, gradient reaches both.
    labels: (B,) int64 in [0, C). scale > 0. label_smoothing in [0, 1): share spread evenly over all C
    classes. Source: method file compact_involution, section 4 (cosine classifier, scale 16).
    """
    if embeddings.shape[1] != class_weights.shape[1]:
        raise ValueError(f"embeddings are {embeddings.shape[1]}-d, class weights {class_weights.shape[1]}-d")
    if scale <= 0:
        raise ValueError(f"scale is {scale}, it must be above 0")
    logits = scale * F.normalize(embeddings, dim=1) @ F.normalize(class_weights, dim=1).T  # (B, C)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
