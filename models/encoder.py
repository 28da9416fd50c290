"""The interface of all encoders."""

from torch import nn

ENCODER_LEVELS = 5  # the stem, and the stages that lead to strides 4, 8, 16 and 32; see `Encoder.level_of`


class Encoder(nn.Module):
    """Base class of encoders: (B, 3, h, w) normalised RGB to feature maps from fine to coarse.

    The last four maps are at strides 4, 8, 16 and 32; small encoders add one at stride 2.

    Attributes:
        channels: Channels of each map.
        multiple: h and w must be multiples of this.
    """

    channels: list[int]
    multiple: int = 32

    def level_of(self, parameter_name: str) -> int:
        """Return a parameter's depth, for layer-wise learning rates.

        Args:
            parameter_name: As in this module's `named_parameters()`.

        Returns:
            0 for the stem, 1 to 4 for the stages that lead to strides 4, 8, 16 and 32.
        """
        raise NotImplementedError
