"""Pretrained encoder weights from a file."""

from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.encoders import from_signed_range, load_folded
from models.stylematte import MEAN, STD, StyleMatte
from training.config import Recipe
from training.data.readers import DataError, read_rgb, read_set, split


def load_backbone(model: StyleMatte, path: Path, recipe: Recipe, root: Path, photos: int = 192) -> None:
    """Fill the encoder from folded ImageNet weights; norms are measured on training photos.

    Args:
        model: Network with a MobileNetV2 encoder.
        path: safetensors file, batch norms folded, made for RGB in [-1, 1].
        recipe: Says which sets to take the photos from.
        root: Folder of the data sets.
        photos: How many photos to measure on.

    Raises:
        DataError: No photos, or a file that cannot be read or lacks a layer of the encoder.
    """
    sets = [read_set(root, d.folder) for d in recipe.sets if d.kind == "photos"]
    samples = [sample for samples in sets for sample in split(samples, recipe.held_out_every)[0]]
    if not samples:
        raise DataError(f"{root}: no training photos to measure the encoder's norms on")
    rng = np.random.default_rng(recipe.seed)
    chosen = rng.choice(len(samples), min(photos, len(samples)), replace=False)
    pictures = [
        cv2.resize(read_rgb(samples[i].image), (224, 224), interpolation=cv2.INTER_AREA) for i in chosen
    ]
    batch = np.stack(pictures)
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    try:
        folded = from_signed_range(load_file(path), MEAN, STD)
        load_folded(model.encoder, folded, model.normalise(images))
    except (SafetensorError, RuntimeError) as error:  # torch has no narrower one for kernels of other shapes
        raise DataError(f"{path}: not weights of this encoder: {error}") from None
    except KeyError as error:
        raise DataError(
            f"{path}: no layer {error} in it; is it MobileNetV2 with batch norms folded?"
        ) from None
