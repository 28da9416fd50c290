"""Frozen backbones small enough for tests, of random weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from models.encoders import ConvNorm, build_encoder
from models.gan.backbones import ClipFeatures, EncoderFeatures


def clip_network():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=6,
    )
    return CLIPVisionModelWithProjection(config)


def tiny_clip() -> ClipFeatures:
    return ClipFeatures(clip_network(), blocks=(2, 3))


def tiny_encoder() -> EncoderFeatures:
    torch.manual_seed(0)
    return EncoderFeatures(build_encoder("mobilenet_v2_tiny"), side=64)


def write_folded(path: Path) -> Path:
    """Weights of the tiny encoder as those of ImageNet are kept: kernels and biases alone."""
    torch.manual_seed(0)
    tensors = {}
    for name, layer in build_encoder("mobilenet_v2_tiny").named_modules():
        if isinstance(layer, ConvNorm):
            kernel = torch.randn_like(layer.conv.weight)
            tensors[f"{name}.weight"] = kernel / kernel[0].numel() ** 0.5
            tensors[f"{name}.bias"] = 0.3 * torch.randn(len(kernel))
    save_file(tensors, path)
    return path
