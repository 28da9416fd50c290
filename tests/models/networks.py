"""Networks for tests: untrained, yet with something to say."""

import torch
from torch import nn

from models.presets import Preset
from models.stylematte import StyleMatte, build_model
from models.upsamplers import ConvGuidedFilter, FineGuidedFilter


def lively(preset: str | Preset, seed: int = 0) -> StyleMatte:
    """A random network whose logits spread over some ±3, in evaluation mode.

    Fresh weights say 0.5 everywhere, and agreement on that means nothing. Here every batch norm has
    statistics, scale and shift of its own, the head speaks up, a learned filter follows the guide, and a
    prior is listened to.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = build_model(preset)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        if isinstance(model.upsampler, ConvGuidedFilter):
            model.upsampler.fit[-1].weight.normal_(0, 0.3, generator=generator)
        if isinstance(model.upsampler, FineGuidedFilter):
            model.upsampler.last.weight.normal_(0, 0.3, generator=generator)
        for norm in norms:
            norm.momentum = 1.0  # keep what the batch below shows
            norm.weight.uniform_(0.7, 1.3, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
        noise = torch.rand(4, 3, 8, 8, generator=generator)
        image = nn.functional.interpolate(noise, 128, mode="bicubic").clamp(0, 1)
        model.train()
        spread = model(image, image).coarse_logits.std()
        model.eval()
        model.head.weight *= 1.5 / spread
        if model.selection is not None:
            model.selection.last.weight.normal_(0, 0.3, generator=generator)
        for norm in norms:
            norm.momentum = 0.1
    return model
