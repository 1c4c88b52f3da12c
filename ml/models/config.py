"""What an encoder is made of, as validated values. Imports no torch, so serving processes can read it."""

from dataclasses import dataclass, field

CODE_BITS = (64, 128, 256)
MAX_WIDTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactConfig:
    """Shape of the compact trunk. `parity` is the default; wider ones are configurations, not classes."""

    widths: tuple[int, ...] = (32, 64, 64, 96)  # channels after each convolution, each 1 to 1024
    strides: tuple[int, ...] = (2, 2, 2, 1)  # 1 or 2, one for each width
    involution_kernel: int = 3  # K, odd, 1 to 11
    involution_stride: int = 1  # 1 or 2
    involution_reduction: int = 1  # r >= 1
    pooling: str = "gem"  # "mean", or "gem": generalised mean with exponent 3

    def __post_init__(self) -> None:
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
        if self.pooling not in ("mean", "gem"):
            raise ValueError(f"pooling is {self.pooling!r}, allowed: mean, gem")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What an encoder is made of, apart from its weights."""

    trunk: CompactConfig = field(default_factory=CompactConfig)
    input_size: int = 96  # pixels a side, 32 to 224
    code_bits: int = 128  # L: 64, 128 or 256
    code_hidden: int = 256  # width of the code head's hidden layer, 8 to 1024
    dimension: int = 128  # D, 8 to 512
    # Per-channel mean and standard deviation of the pixels in [0, 1] that the trunk was trained on.
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        if not 32 <= self.input_size <= 224:
            raise ValueError(f"input_size is {self.input_size}, allowed 32 to 224")
        if self.code_bits not in CODE_BITS:
            raise ValueError(f"code_bits is {self.code_bits}, allowed: {CODE_BITS}")
        if not 8 <= self.code_hidden <= 1024 or not 8 <= self.dimension <= 512:
            raise ValueError(
                f"code_hidden is {self.code_hidden} (8 to 1024), dimension {self.dimension} (8 to 512)"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or any(not value > 0 for value in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} must have three values, std above 0")
