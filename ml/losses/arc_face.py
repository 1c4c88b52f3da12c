"""ArcFace (Deng et al., CVPR 2019): a cosine classifier whose right class must win by an angle."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_TINY = 1e-12  # squared sine below which an angle has no direction to shrink in


def arc_face_loss(
    embeddings: Tensor, class_weights: Tensor, labels: Tensor, *, scale: float = 30.0, margin: float = 0.3
) -> Tensor:
    """Mean cross-entropy (nats) of softmax(scale * cosine), the cosine of the own class at `margin` radians more.

    embeddings: (B, D); class_weights: (C, D); both are normalised here, gradient reaches both. labels: (B,) int64 in
    [0, C). scale > 0. margin in [0, pi / 2]. Where angle and margin exceed pi the own logit falls on with the cosine,
    unbroken: cos(angle + margin) would rise again.
    """
    if embeddings.shape[1] != class_weights.shape[1]:
        raise ValueError(f"embeddings are {embeddings.shape[1]}-d, class weights {class_weights.shape[1]}-d")
    if scale <= 0 or not 0 <= margin <= math.pi / 2:
        raise ValueError(f"scale is {scale} (above 0), margin {margin} (0 to pi / 2)")
    cosines = F.normalize(embeddings, dim=1) @ F.normalize(class_weights, dim=1).T  # (B, C)
    own = cosines.gather(1, labels[:, None])
    sines = (1 - own.square()).clamp(min=_TINY).sqrt()
    widened = own * math.cos(margin) - sines * math.sin(margin)
    beyond = own + math.cos(margin) - 1
    wanted = torch.where(own > -math.cos(margin), widened, beyond)
    return F.cross_entropy(scale * cosines.scatter(1, labels[:, None], wanted), labels)
