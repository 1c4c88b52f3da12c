"""The two sides of a Wasserstein auto-encoder's discriminator, on logits; their gradients never meet."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812


def critic_loss(critic: nn.Module, drawn: Tensor, latent: Tensor, *, real_label: float = 0.9) -> Tensor:
    """Mean binary cross-entropy (nats) of telling prior draws from latents; gradient reaches the critic alone.

    drawn, latent: (B, d). real_label: target for draws; below 1 it keeps the critic from winning outright.
    """
    real, fake = critic(drawn), critic(latent.detach())
    on_real = F.binary_cross_entropy_with_logits(real, torch.full_like(real, real_label))
    return on_real + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def imitation_loss(critic: nn.Module, latent: Tensor) -> Tensor:
    """Mean of -log d(latent), the non-saturating form; gradient reaches the latent alone."""
    frozen = {name: value.detach() for name, value in critic.named_parameters()}
    return F.softplus(-functional_call(critic, frozen, (latent,))).mean()
