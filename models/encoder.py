"""What every encoder is."""

from torch import nn

ENCODER_LEVELS = 5  # the stem, and what leads to strides 4, 8, 16 and 32; see `Encoder.level_of`


class Encoder(nn.Module):
    """What every encoder is: (B, 3, h, w) normalised RGB to maps from fine to coarse.

    The last four are at strides 4, 8, 16 and 32; small encoders have one at stride 2 before them.

    Attributes:
        channels: Channels of the maps.
        multiple: h and w are multiples of it.
    """

    channels: list[int]
    multiple: int = 32

    def level_of(self, parameter_name: str) -> int:
        """Depth of a parameter, for layer-wise learning rates.

        Args:
            parameter_name: As in `named_parameters()` of this module.

        Returns:
            0 for the stem, 1 to 4 for what leads to strides 4, 8, 16 and 32.
        """
        raise NotImplementedError
