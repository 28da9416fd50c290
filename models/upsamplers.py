"""From coarse logits to full-size logits, steered by the full-size picture."""

from torch import Tensor, cat, nn
from torch.nn import functional as F  # noqa: N812


class FastGuidedFilter(nn.Module):
    """Fit logits ≈ A · guide + b in every coarse window, then use A and b at full size.

    Args:
        radius_px: Radius of the box window, in coarse pixels.
        eps: Regulariser, in squared units of the guide: larger follows the guide less.

    Reference:
        He, Sun, "Fast Guided Filter", 2015, algorithm 2.
    """

    def __init__(self, radius_px: int, eps: float) -> None:
        super().__init__()
        self.radius_px = radius_px
        self.eps = eps

    def coefficients(self, guide: Tensor, logits: Tensor) -> Tensor:
        """Local linear model between a coarse guide and coarse logits.

        Args:
            guide: (B, 1, h, w) grey guide at the size of the logits.
            logits: (B, 1, h, w).

        Returns:
            (B, 2, h, w): A, then b.
        """
        mean_guide, mean_logits = self._mean(guide), self._mean(logits)
        variance = self._mean(guide * guide) - mean_guide * mean_guide
        covariance = self._mean(guide * logits) - mean_guide * mean_logits
        a = covariance / (variance + self.eps)
        b = mean_logits - a * mean_guide
        return cat([self._mean(a), self._mean(b)], dim=1)

    def upsample(self, coefficients: Tensor, guide: Tensor) -> Tensor:
        """Use the model at full size.

        Args:
            coefficients: (B, 2, h, w), see `coefficients`.
            guide: (B, 1, H, W) grey guide at full size.

        Returns:
            (B, 1, H, W) logits.
        """
        fine = F.interpolate(coefficients, guide.shape[-2:], mode="bilinear", align_corners=True)
        a, b = fine.split(1, dim=1)  # (B, 2, H, W) → twice (B, 1, H, W)
        return a * guide + b

    def _mean(self, x: Tensor) -> Tensor:
        # Windows are cut at the border and divided by what is left of them.
        size, radius = 2 * self.radius_px + 1, self.radius_px
        return F.avg_pool2d(x, size, stride=1, padding=radius, count_include_pad=False)
