"""The encoder as a textbook writes it: involution by `F.unfold`, pictures plane by plane, nothing tuned."""

import copy

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.models.encoder import ImageEncoder
from ml.models.involution import Involution


class TextbookInvolution(Involution):
    """Involution as its paper prints it: cut out every window, multiply by its kernel, sum."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / s, W / s). H and W must be multiples of the stride."""
        kernels = self.kernels(images)
        batch, channels = images.shape[:2]
        height, width = kernels.shape[2:]
        windows = F.unfold(images, self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)
        windows = windows.view(
            batch, self.groups, channels // self.groups, self.kernel_size**2, height, width
        )
        kernels = kernels.view(batch, self.groups, 1, self.kernel_size**2, height, width)
        return (windows * kernels).sum(dim=3).view(batch, channels, height, width)


def textbook(encoder: ImageEncoder) -> ImageEncoder:
    """A copy with the same weights that computes the same outputs the plain way."""
    return made_textbook(copy.deepcopy(encoder))


def made_textbook(encoder: ImageEncoder) -> ImageEncoder:
    """The encoder itself, changed in place: whoever holds it, or its parameters, holds the plain one."""
    for module in encoder.modules():
        if type(module) is Involution:
            module.__class__ = TextbookInvolution
        for name, parameter in module.named_parameters(recurse=False):
            getattr(module, name).data = parameter.data.contiguous()
    return encoder
