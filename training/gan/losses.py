"""Losses of generator and discriminators, and how their inputs are blurred and composited."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

REAL_LABEL = 0.8  # one-sided label smoothing of the vision-aided discriminator


def generator_loss(logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of (N, 1) logits of generated images.

    Reference:
        Goodfellow et al., "Generative Adversarial Nets", 2014, section 3.
    """
    return F.softplus(-logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of (N, 1) logits of real and of generated images."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the logits' gradients with respect to the images; differentiable once more.

    The images are the discriminator's inputs, after augmentation: the penalty limits its gradients at its
    inputs, and torch cannot differentiate resampling twice.

    Args:
        logits: (N, 1), each computed from one of `images`.
        images: (N, C, H, W) with `requires_grad`.

    Reference:
        Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?", 2018, eq. 9,
        without its factor γ/2.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def composite(rgba: Tensor, backgrounds: Tensor) -> Tensor:
    """Composite (N, 4, H, W) straight RGBA over (N, 3, H, W) RGB, both in [-1, 1]; RGBA is clamped."""
    alpha = ((rgba[:, 3:] + 1) / 2).clamp(0, 1)
    return alpha * rgba[:, :3].clamp(-1, 1) + (1 - alpha) * backgrounds


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Blur (N, C, H, W) with a Gaussian; a sigma below 0.1 px has no effect.

    Reference:
        Karras et al., "Alias-Free Generative Adversarial Networks", 2021, appendix: the discriminator's
        inputs are blurred at the start, so that it does not focus on high frequencies.
    """
    if sigma_px < 0.1:
        return images
    reach = math.ceil(3 * sigma_px)
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (places / sigma_px).square())
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    n, c, h, w = images.shape
    rows = F.pad(images.reshape(n * c, 1, h, w), (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(rows, kernel[:, :, None]), kernel[..., None]).reshape(n, c, h, w)


def fading_blur_px(sigma_px: float, seen_kimg: float, until_kimg: float) -> float:
    """Return the blur's sigma after a number of images: it falls linearly to zero."""
    return sigma_px * max(0.0, 1 - seen_kimg / until_kimg)


def adapted(p: float, mean_sign: float, target: float, seen: int, kimg: float) -> float:
    """Return the next augmentation probability.

    Args:
        p: Current probability.
        mean_sign: Mean sign of the discriminator's logits for real images; 1 if it recognises them all.
        target: Target of the mean sign.
        seen: Real images since the last change.
        kimg: Thousands of images in which p can rise from 0 to 1.

    Reference:
        Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020, eq. 1: r_t.
    """
    direction = (mean_sign > target) - (mean_sign < target)
    return min(1.0, max(0.0, p + direction * seen / (kimg * 1000)))


def average_decay(batch_size: int, seen: int, half_life_kimg: float, rampup: float) -> float:
    """Return the EMA decay per step: the half-life is `half_life_kimg`, or less during the ramp-up."""
    half_life = min(half_life_kimg * 1000, seen * rampup) if rampup > 0 else half_life_kimg * 1000
    return 0.5 ** (batch_size / max(half_life, 1e-8))
