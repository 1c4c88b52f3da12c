"""What an encoder is made of, as validated values. Imports no torch, so serving processes can read it."""

from dataclasses import dataclass, field

CODE_BITS = (64, 128, 256)
MAX_WIDTH = 1024


FRONT_LAYERS = ("involution", "convolution")
ACTIVATIONS = ("gelu", "relu")
POOLINGS = ("mean", "gem")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, allowed: {', '.join(allowed)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactConfig:
    """Shape of the compact trunk. `parity` is the default; wider ones are configurations, not classes."""

    kind: str = "compact"  # tells it from ResidualConfig in a manifest
    channels: int = 3  # 3, or 1: the mean of red, green and blue
    # What stands before the stages, in order: "involution", or "convolution" (3 x 3, the control); 0 to 3 of
    # them.
    front: tuple[str, ...] = ("involution",)
    front_position: str = "input"  # or "after_first": behind the first stage
    front_shortcut: bool = (
        False  # add what a front layer is given to what it makes; needs involution_stride 1
    )
    involution_kernel: int = 3  # K, odd, 1 to 11
    involution_stride: int = 1  # 1 or 2
    involution_groups: int = 1  # G, divides the channels it stands on
    involution_reduction: int = 1  # r >= 1
    stage: str = "convolution"  # 3 x 3; or "involution": 1 x 1, then a 3 x 3 involution (16 channels a group)
    widths: tuple[int, ...] = (32, 64, 64, 96)  # channels after each stage, each 1 to 1024
    strides: tuple[int, ...] = (2, 2, 2, 1)  # 1 or 2, one for each width
    downsampling: str = "stride"  # of the stage itself; or "pool": stride 1, then max-pooling
    activation: str = "gelu"  # everywhere; or "relu"
    pooling: str = "gem"  # "mean", or "gem": generalised mean with exponent 3

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, ("compact",))
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}, allowed 1 and 3")
        if len(self.front) > 3 or any(layer not in FRONT_LAYERS for layer in self.front):
            raise ValueError(f"front is {self.front}, allowed: up to three of {', '.join(FRONT_LAYERS)}")
        _check_choice("front_position", self.front_position, ("input", "after_first"))
        _check_choice("stage", self.stage, ("convolution", "involution"))
        _check_choice("downsampling", self.downsampling, ("stride", "pool"))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("pooling", self.pooling, POOLINGS)
        if not self.widths or any(not 1 <= width <= MAX_WIDTH for width in self.widths):
            raise ValueError(f"widths are {self.widths}, each must be 1 to {MAX_WIDTH}")
        if len(self.strides) != len(self.widths) or any(stride not in (1, 2) for stride in self.strides):
            raise ValueError(f"strides are {self.strides}, expected {len(self.widths)} values of 1 or 2")
        if self.involution_kernel not in range(1, 12, 2):
            raise ValueError(f"involution_kernel is {self.involution_kernel}, it must be odd, 1 to 11")
        if self.involution_stride not in (1, 2) or self.involution_reduction < 1:
            raise ValueError(
                f"involution_stride is {self.involution_stride} (allowed 1, 2), "
                f"involution_reduction {self.involution_reduction} (at least 1)"
            )
        if self.front_shortcut and self.involution_stride != 1:
            raise ValueError(f"involution_stride is {self.involution_stride}, a front_shortcut needs 1")
        carrier = self.channels if self.front_position == "input" else self.widths[0]
        if self.involution_groups < 1 or carrier % self.involution_groups:
            raise ValueError(f"involution_groups is {self.involution_groups}, it must divide {carrier}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualConfig:
    """Shape of the server-size trunk: what an operator upgrades to."""

    kind: str = "residual"  # tells it from CompactConfig in a manifest
    channels: int = 3  # 3, or 1: the mean of red, green and blue
    stem: int = 32  # channels of the first convolution (stride 2), 1 to 1024
    widths: tuple[int, ...] = (
        64,
        128,
        256,
    )  # channels of each stage, each 1 to 1024; every stage halves the map
    blocks: tuple[int, ...] = (2, 2, 2)  # two-convolution blocks of each stage, each 1 to 8
    activation: str = "gelu"  # or "relu"
    pooling: str = "gem"  # "mean", or "gem": generalised mean with exponent 3

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, ("residual",))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("pooling", self.pooling, POOLINGS)
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}, allowed 1 and 3")
        if not self.widths or any(not 1 <= width <= MAX_WIDTH for width in (self.stem, *self.widths)):
            raise ValueError(f"stem {self.stem} and widths {self.widths} must each be 1 to {MAX_WIDTH}")
        if len(self.blocks) != len(self.widths) or any(not 1 <= count <= 8 for count in self.blocks):
            raise ValueError(f"blocks are {self.blocks}, expected {len(self.widths)} values of 1 to 8")


TrunkConfig = CompactConfig | ResidualConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What an encoder is made of, apart from its weights."""

    trunk: TrunkConfig = field(default_factory=CompactConfig)
    input_size: int = 96  # pixels a side, 24 to 224
    code_bits: int = 128  # L: 64, 128 or 256
    code_hidden: int = 256  # width of the code head's hidden layer, 8 to 1024
    dimension: int = 128  # D, 8 to 512
    # Per-channel mean and standard deviation of the pixels in [0, 1] that the trunk was trained on.
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        if not 24 <= self.input_size <= 224:
            raise ValueError(f"input_size is {self.input_size}, allowed 24 to 224")
        if self.code_bits not in CODE_BITS:
            raise ValueError(f"code_bits is {self.code_bits}, allowed: {CODE_BITS}")
        if not 8 <= self.code_hidden <= 1024 or not 8 <= self.dimension <= 512:
            raise ValueError(
                f"code_hidden is {self.code_hidden} (8 to 1024), dimension {self.dimension} (8 to 512)"
            )
        channels = self.trunk.channels
        if len(self.mean) != channels or len(self.std) != channels or any(not v > 0 for v in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} must have {channels} values, std above 0")
