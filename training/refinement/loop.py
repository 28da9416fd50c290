"""Train a refiner for one coarse network for a given time, on scenes from `training.refinement.scenes`."""

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import CheckpointError, load_weights, write_tensors
from models.refiner import REFINERS, Refiner, load_refiner
from models.stylematte import StyleMatte
from training.losses import laplacian
from training.refinement.coarse import degraded, network_alpha
from training.refinement.scenes import Drawer, Scene, Scenes, draw_one

CROP_PX = 192
UNCERTAIN = (0.02, 0.98)
CROPS_PER_SCENE = 20
TRUSTED_IOU = 0.85  # of the coarse network's alpha with the truth: below, it found another subject


def near_uncertain(alpha: Tensor, radius_px: int) -> Tensor:
    """Return (B, 1, H, W) 0 or 1: 1 within a square radius of an uncertain pixel."""
    soft = ((alpha > UNCERTAIN[0]) & (alpha < UNCERTAIN[1])).float()
    for side in ((2 * radius_px + 1, 1), (1, 2 * radius_px + 1)):  # a square, far faster than in one pass
        soft = F.max_pool2d(soft, side, 1, (side[0] // 2, side[1] // 2))
    return soft


class Pool:
    """Crops on the device, as uint8; new crops replace the oldest of their part (synthetic or real).

    Args:
        size: Crops in each part.
        device: Device of the crops.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        # (part, crop, RGB + truth + coarse, y, x)
        self.pixels = torch.zeros(2, size, 5, CROP_PX, CROP_PX, dtype=torch.uint8, device=device)
        self.trusted = torch.zeros(2, size, dtype=torch.bool, device=device)
        self.added = [0, 0]

    def add(self, scene: Scene, crops: Tensor, trusted: bool) -> None:
        """Add the crops of a scene, (n, 5, CROP_PX, CROP_PX) uint8."""
        part = int(scene.kind == "drawn")
        places = (torch.arange(len(crops), device=crops.device) + self.added[part]) % self.size
        self.pixels[part, places] = crops
        self.trusted[part, places] = trusted
        self.added[part] += len(crops)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Sample (size, 5, CROP_PX, CROP_PX) in [0, 1] and (size,) trusted; two fifths are synthetic."""
        have = [min(n, self.size) for n in self.added]
        drawn = min(2 * size // 5, have[1] // 8)
        picked, trusted = [], []
        for part, count in ((0, size - drawn), (1, drawn)):
            if count:
                places = torch.randint(have[part], (count,), device=self.pixels.device)
                picked.append(self.pixels[part, places])
                trusted.append(self.trusted[part, places])
        return torch.cat(picked).float() / 255, torch.cat(trusted)


def cut(scene: Scene, network: StyleMatte, ratio: float, count: int) -> tuple[Tensor, bool] | None:
    """Cut crops around the soft band of a scene.

    Args:
        scene: The scene.
        network: The coarse network.
        ratio: Target size of a cell of the coarse grid, in pixels, within the network's usual input sizes.
        count: Number of crops.

    Returns:
        (count, 5, CROP_PX, CROP_PX) uint8: RGB, truth and coarse; and whether the network found the subject.
        None if there is no band.
    """
    height, width = scene.alpha.shape[-2:]
    working = min(max(2 * (height * width) ** 0.5 / ratio, 224), 640)
    coarse = network_alpha(network, scene.image, working)
    found, there = coarse > 0.5, scene.alpha > 0.5
    overlap = (found & there).sum() / (found | there).sum().clamp(min=1)
    trusted = bool(overlap >= TRUSTED_IOU)
    soft = near_uncertain(scene.alpha, 2)
    if trusted:
        soft = soft + 0.3 * near_uncertain(coarse, 1)
    flat = F.avg_pool2d(soft, 4).flatten()
    if float(flat.sum()) < 8:
        return None
    places = torch.multinomial(flat, count, replacement=True)
    columns = width // 4
    whole = torch.cat([scene.image, scene.alpha, coarse], 1)[0]
    whole = (whole.clamp(0, 1) * 255).round().byte()
    crops = []
    for place in places.tolist():
        middle = (place // columns * 4, place % columns * 4)
        top, left = (
            min(max(0, m + random.randint(-64, 64) - CROP_PX // 2), side - CROP_PX)
            for m, side in zip(middle, (height, width), strict=True)
        )
        crops.append(whole[:, top : top + CROP_PX, left : left + CROP_PX])
    return torch.stack(crops), trusted


def augmented(batch: Tensor) -> Tensor:
    """Flip and transpose crops, and change the colour, sharpness and noise of their images."""
    batch = batch.clone()
    for dims in ((3,), (2,)):
        flip = torch.rand(len(batch), device=batch.device) < 0.5
        batch[flip] = batch[flip].flip(dims)
    turn = torch.rand(len(batch), device=batch.device) < 0.5
    batch[turn] = batch[turn].transpose(2, 3)
    image = batch[:, :3]
    each = (len(batch), 1, 1, 1)

    def between(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(len(batch), channels, 1, 1, device=batch.device).uniform_(low, high)

    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * between(0, 1.4)
    image = image.clamp(0, 1) ** between(0.6, 1.6) * between(0.7, 1.2, 3) + between(-0.08, 0.08)
    small = F.avg_pool2d(F.pad(image, [1] * 4, mode="replicate"), 3, 1)
    image = torch.lerp(image, small, (torch.rand(each, device=batch.device) - 0.6).clamp(0, 1) * 2)
    image = image + torch.randn_like(image) * between(-0.02, 0.025).clamp(min=0)
    batch[:, :3] = image.clamp(0, 1)
    return batch


def batch_of(pool: Pool, size: int, tile_px: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sample a batch: image, truth, coarse alpha and the band to learn, each (size, c, tile_px, tile_px)."""
    batch, trusted = pool.batch(size)
    batch = augmented(batch)
    image, truth, coarse = batch.split([3, 1, 1], 1)
    parts = [slice(k, k + math.ceil(size / 4)) for k in range(0, size, math.ceil(size / 4))]
    order = torch.randperm(size, device=batch.device)
    image, truth, coarse, trusted = (x[order] for x in (image, truth, coarse, trusted))
    synthetic = torch.cat(
        [degraded(image[p], truth[p], math.exp(random.uniform(math.log(1.4), math.log(9)))) for p in parts]
    )
    given = trusted & (torch.rand(size, device=batch.device) < 0.6)
    coarse = torch.where(given.view(-1, 1, 1, 1), coarse, synthetic)
    band = near_uncertain(coarse, random.randint(3, 12))
    top, left = (random.randint(0, (CROP_PX - tile_px) // 2) * 2 for _ in range(2))
    window = (..., slice(top, top + tile_px), slice(left, left + tile_px))
    return image[window], truth[window], coarse[window], band[window]


def loss_of(logits: Tensor, truth: Tensor, band: Tensor) -> Tensor:
    """Return the loss in the band: L1, Laplacian pyramid and gradient."""
    difference = torch.sigmoid(logits) - truth
    share = band.mean() + 1e-3
    flat = (difference.abs() * band).mean()
    held = difference * band
    slope = held.diff(dim=2).abs().mean() + held.diff(dim=3).abs().mean()
    return (flat + 0.5 * laplacian(logits, truth, band) + 0.5 * slope) / share


class HeldOutCrops:
    """Fixed crops of held-out scenes by kind, with the network's coarse alphas."""

    def __init__(self, scenes: Scenes, network: StyleMatte, each: int) -> None:
        self.crops: dict[str, Tensor] = {}
        state = random.getstate()
        random.seed(7)
        torch.manual_seed(7)
        made: dict[str, list[Scene]] = {}
        for k in range(each):
            photo = k % len(scenes.photos)
            made.setdefault("photo", []).append(scenes.photo(photo, 1.0, replace=False))
            made.setdefault("composite", []).append(scenes.photo(photo, 1.5, replace=True))
            made.setdefault("fur", []).append(scenes.fur(k % len(scenes.cutouts), 1.0))
        for k in range(math.ceil(each / 3)):  # rendering them takes time
            pixels = draw_one(9_000_000_000 + k, scenes.backgrounds, scenes.photos)
            made.setdefault("drawn", []).append(scenes.drawn(pixels))
        for kind, several in made.items():
            count, ratio = (12 if kind == "drawn" else 4), (4.0 if kind == "photo" else 5.0)
            cuts = [cut(scene, network, ratio, count) for scene in several]
            if crops := [c[0] for c in cuts if c is not None and c[1]]:
                self.crops[kind] = torch.cat(crops)
        random.setstate(state)

    @torch.no_grad()
    def errors(self, model: Refiner) -> dict[str, list[float]]:
        """Return by kind [MAD × 1000 of the coarse alpha, of the refined alpha, crops], in the true band."""
        found = {}
        for kind, crops in self.crops.items():
            sums = torch.zeros(3, dtype=torch.float64)
            for some in crops.split(64):
                image, truth, coarse = (some.float() / 255).split([3, 1, 1], 1)
                refined = torch.where(near_uncertain(coarse, 5) > 0, model(image, coarse), coarse)
                band = near_uncertain(truth, 5)
                parts = [((x - truth).abs() * band).sum() for x in (coarse, refined)]
                sums += torch.stack([*parts, band.sum()]).double().cpu()
            if sums[2]:
                found[kind] = [round(float(1000 * v / sums[2]), 2) for v in sums[:2]] + [len(crops)]
        return found


def train(arguments: argparse.Namespace) -> None:
    """Cut the first crops, train until the time is over; write averaged weights and a log regularly."""
    began = time.monotonic()
    device = torch.device(arguments.device)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    shape = REFINERS[arguments.shape]
    precision = arguments.precision or ("bf16" if device.type == "cuda" else "fp32")
    log = (out / "refiner_log.jsonl").open("a", encoding="utf-8")

    def say(**values: object) -> None:
        line = json.dumps({"seconds": round(time.monotonic() - began, 1), **values})
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    drawer = Drawer(Path(arguments.data), arguments.drawers, arguments.seed)
    network = load_weights(Path(arguments.coarse))[0].to(device).eval()
    scenes = Scenes(Path(arguments.data), False, device)
    held_out = HeldOutCrops(Scenes(Path(arguments.data), True, device), network, arguments.held_out)
    say(photos=len(scenes.photos), held_out={k: len(v) for k, v in held_out.crops.items()})
    model = Refiner(shape) if arguments.init is None else load_refiner(arguments.init)[0]
    if model.shape != shape:
        raise CheckpointError(f"{arguments.init}: a {model.shape.name}, not a {shape.name}")
    model = model.to(device)
    average = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    pool = Pool(arguments.pool, device)

    def more(scene: Scene) -> None:
        scene_ratio = math.exp(random.uniform(math.log(1.8), math.log(8)))
        crops = cut(scene, network, scene_ratio, CROPS_PER_SCENE)
        if crops is not None:
            pool.add(scene, *crops)

    while pool.added[0] < arguments.first:
        more(scenes.random())
    say(first=pool.added)
    warmup_steps = 300 if arguments.init is None else 50
    step, started, losses = 0, time.monotonic(), torch.zeros((), device=device)
    saved = started
    since = 0
    # The time starts after the first crops: otherwise a slow machine might not make a single step.
    while (spent := time.monotonic() - started) < arguments.seconds:
        share = spent / arguments.seconds
        rate = (
            arguments.lr
            * min(1.0, (step + 1) / warmup_steps)
            * (0.5 * (1 + math.cos(math.pi * share)) + 0.01)
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        if step % 6 == 0:
            more(scenes.random())
        elif step % 3 == 0 and (drawing := drawer.take()) is not None:
            more(scenes.drawn(drawing))
        model.train()
        image, truth, coarse, band = batch_of(pool, arguments.batch, shape.tile_px)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model.logits(image, coarse)
        loss = loss_of(logits, truth, band)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step, since, losses = step + 1, since + 1, losses + loss.detach()
        _update_average(average, model, min(0.999, step / (step + 50)))
        if time.monotonic() - saved > arguments.every:
            if not math.isfinite(float(losses)):
                raise RuntimeError(f"the loss is not finite at step {step}")
            _save(average, out, step)
            say(step=step, loss=round(float(losses) / since, 4), rate=rate, crops=list(pool.added),
                band=held_out.errors(average))  # fmt: skip
            saved, since, losses = time.monotonic(), 0, torch.zeros((), device=device)
    _save(average, out, step)
    drawer.close()
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0
    say(step=step, band=held_out.errors(average), done=True, memory_gb=round(memory, 2))


@torch.no_grad()
def _update_average(average: Refiner, model: Refiner, keep: float) -> None:
    mine, theirs = list(average.state_dict().values()), list(model.state_dict().values())
    floats = [(a, m) for a, m in zip(mine, theirs, strict=True) if a.dtype.is_floating_point]
    torch._foreach_lerp_([a for a, _ in floats], [m for _, m in floats], 1 - keep)


def _save(model: Refiner, out: Path, step: int) -> None:
    metadata = {"refiner": model.shape.name, "provenance": json.dumps({"steps": step})}
    write_tensors(out / "refiner.safetensors", model.state_dict(), metadata)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Folder with photos/, cutouts/ and backgrounds/.")
    parser.add_argument("--coarse", required=True, help="Weights of the coarse network.")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=400, help="Training time after the first crops.")
    parser.add_argument("--shape", choices=sorted(REFINERS), default="nano_refiner")
    parser.add_argument("--init", type=Path, help="Weights of a refiner to train further.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="Default: bf16 on a GPU, else fp32.")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--pool", type=int, default=12000, help="Crops in each of the two parts.")
    parser.add_argument("--first", type=int, default=2000, help="Crops to cut before training starts.")
    parser.add_argument("--held-out", type=int, default=60, help="Held-out scenes of each kind.")
    parser.add_argument("--drawers", type=int, default=2, help="Processes that render strands.")
    parser.add_argument("--every", type=float, default=60, help="Seconds between checkpoints.")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
