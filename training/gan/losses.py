"""Losses of both sides, and what discriminators are shown; nothing in here is random."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

REAL_LABEL = 0.8  # of the vision-aided discriminator, which shall never be quite sure


def generator_loss(logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of (N, 1) logits of drawn pictures.

    Reference:
        Goodfellow et al., "Generative Adversarial Nets", 2014, section 3.
    """
    return F.softplus(-logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of (N, 1) logits of real and of drawn pictures."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(logits: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared norm of the logits' gradients by the pictures; differentiable once more.

    The pictures are those that the discriminator got, augmented ones included: its own input is what it must
    not answer to steeply, and torch cannot differentiate a resampling twice.

    Args:
        logits: (N, 1), computed from `pictures`, each from its own.
        pictures: (N, C, H, W) with `requires_grad`.

    Reference:
        Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?", 2018, eq. 9,
        without its factor γ/2.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def composite(rgba: Tensor, backgrounds: Tensor) -> Tensor:
    """Composite of (N, 4, H, W) straight RGBA over (N, 3, H, W) RGB, both in [-1, 1]; RGBA is clamped."""
    alpha = ((rgba[:, 3:] + 1) / 2).clamp(0, 1)
    return alpha * rgba[:, :3].clamp(-1, 1) + (1 - alpha) * backgrounds


def blur(pictures: Tensor, sigma_px: float) -> Tensor:
    """Blur (N, C, H, W) by a Gaussian; below a tenth of a pixel nothing happens.

    Reference:
        Karras et al., "Alias-Free Generative Adversarial Networks", 2021, appendix: all that the
        discriminator sees is blurred at the start, so that it cannot fix its eyes on high frequencies.
    """
    if sigma_px < 0.1:
        return pictures
    reach = math.ceil(3 * sigma_px)
    places = torch.arange(-reach, reach + 1, device=pictures.device, dtype=pictures.dtype)
    kernel = torch.exp(-0.5 * (places / sigma_px).square())
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    n, c, h, w = pictures.shape
    rows = F.pad(pictures.reshape(n * c, 1, h, w), (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(rows, kernel[:, :, None]), kernel[..., None]).reshape(n, c, h, w)


def fading_blur_px(sigma_px: float, seen_kimg: float, until_kimg: float) -> float:
    """Deviation of the blur after so many pictures: falls linearly to nothing."""
    return sigma_px * max(0.0, 1 - seen_kimg / until_kimg)


def adapted(p: float, mean_sign: float, target: float, seen: int, kimg: float) -> float:
    """The next probability of augmentation.

    Args:
        p: The present one.
        mean_sign: Mean sign of the discriminator's answers to real pictures, 1 where it knows them all.
        target: What it should be.
        seen: Real pictures since the last change.
        kimg: Thousands of pictures in which p may go from 0 to 1.

    Reference:
        Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020, eq. 1: r_t.
    """
    direction = (mean_sign > target) - (mean_sign < target)
    return min(1.0, max(0.0, p + direction * seen / (kimg * 1000)))


def average_decay(batch_size: int, seen: int, half_life_kimg: float, rampup: float) -> float:
    """Factor of the old average in one step: half is forgotten in `half_life_kimg`, sooner at the start."""
    half_life = min(half_life_kimg * 1000, seen * rampup) if rampup > 0 else half_life_kimg * 1000
    return 0.5 ** (batch_size / max(half_life, 1e-8))
