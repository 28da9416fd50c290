"""The steps of the training cycle; each has its own folder."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stylematte.files import sha256_of
from stylematte.media.json_lines import read_lines
from stylematte.weights import find_trained
from training.config import Recipe
from training.cycle import Result, Step, compare, fine_tuning, gather_data
from training.gan.config import GanRecipe
from training.gan.data import list_samples
from training.gan.loop import GanOptions
from training.gan.run import GanRequest, Progress, prepare_mattes, run_gan
from training.loop import RunOptions
from training.plan import make_plan
from training.run import TrainRequest, run_recipe
from training.synthesis.run import (
    Filter,
    SynthesisRequest,
    Watcher,
    parse_plan,
    report_lines,
    synthesize,
)


@dataclass(frozen=True)
class CycleRequest:
    """Settings and callbacks of a cycle.

    Attributes:
        data: Folder of the data sets of both recipes.
        out: Run folder.
        recipe: Recipe of the matting network.
        gan: Recipe of the generator.
        weights: Name or file of the initial matting network; empty: pretrain one.
        trained_generator: Name or file of a generator; empty: train one.
        count: Number of synthetic images to keep.
        truncation: Truncation of the synthetic images, see `training.synthesis.run.parse_plan`.
        threshold: Threshold of the filter.
        steps: Steps of the fine-tuning.
        share: Fraction of generated images in the fine-tuning, see `training.cycle.fine_tuning`.
        mattes: Folder of prepared mattes.
        backbone: Backbone weights for pretraining, see `training.run.run_recipe`.
        detector: Feature extractor for the generator's scores.
        every: Steps between scores.
        workers: Processes that read images.
        device: Torch device.
        quiet: Print nothing.
        export: Exports weights to a model file in a folder. Passed in, because `training` does not import
            `export`.
        say: Called with each line of output.
        progress: Shows the progress of matting photos.
        watch: Runs the image generation and shows its progress.
    """

    data: Path
    out: Path
    recipe: Recipe
    gan: GanRecipe
    weights: str
    trained_generator: str
    count: int
    truncation: str
    threshold: float
    steps: int
    share: float
    mattes: Path
    backbone: str
    detector: str
    every: int | None
    workers: int
    device: str
    quiet: bool
    export: Callable[[Path, Path], None]
    say: Callable[[str], None]
    progress: Progress
    watch: Watcher

    @property
    def before(self) -> Path:
        """Weights of the initial matting network."""
        return find_trained(self.weights) if self.weights else self.out / "pretrain" / "best.safetensors"

    @property
    def model(self) -> Path:
        """The same network, exported."""
        return self.out / "export" / f"{self.before.stem}.onnx"

    @property
    def faces(self) -> Path:
        """Mattes of the generator's real images."""
        return self.out / "mattes_for_gan"

    @property
    def generator(self) -> Path:
        """Weights of the generator."""
        if self.trained_generator:
            return find_trained(self.trained_generator, "--generator")
        return self.out / "gan" / "best.safetensors"

    @property
    def synthetic(self) -> Path:
        """Folder of the generated images."""
        return self.out / "synthetic"

    def run_options(self, folder: str) -> RunOptions:
        """Return the options for training a matting network in a folder."""
        return RunOptions(
            self.out / folder, self.mattes, self.device, workers=self.workers, every=self.every or 500
        )


def overlap(request: CycleRequest) -> str:
    """Return a data set of which the two recipes hold out different parts, or ""."""
    if request.trained_generator or request.gan.held_out_every == request.recipe.held_out_every:
        return ""
    scored = {s.folder for s in request.recipe.validation or request.recipe.sets}
    return next((s.folder for s in request.gan.sets if s.folder in scored), "")


def check_inputs(request: CycleRequest) -> None:
    """Check the data sets of both recipes and the given weights before anything is written.

    Raises:
        DataError: A set is missing, or has no images to train on.
        MissingError: Weights are missing.
    """
    make_plan(request.recipe, request.data)
    if request.weights:
        find_trained(request.weights)
    if request.trained_generator:
        find_trained(request.trained_generator, "--generator")
    else:
        list_samples(request.gan, request.data)


def all_steps(request: CycleRequest, control: bool) -> list[Step]:
    """Return the steps of a cycle, in order."""
    steps = [] if request.weights else [_pretrain(request)]
    steps.append(_export(request))
    if not request.trained_generator:
        steps += [_mattes(request), _gan(request)]
    steps += [_synth(request), _finetune(request, with_synthetic=True)]
    if control:
        steps.append(_finetune(request, with_synthetic=False))
    return [*steps, _score(request, control)]


def _pretrain(request: CycleRequest) -> Step:
    def run() -> Result:
        run_recipe(
            TrainRequest(
                request.recipe,
                request.data,
                request.run_options("pretrain"),
                backbone=request.backbone,
                quiet=request.quiet,
                say=request.say,
            )
        )
        return {"network": request.recipe.preset}

    return Step(
        "pretrain",
        f"train {request.recipe.preset} on photos and their mattes",
        lambda: {"recipe": request.recipe.digest()},
        run,
        request.out / "pretrain",
        (request.before,),
    )


def _export(request: CycleRequest) -> Step:
    def run() -> Result:
        request.export(request.before, request.model.parent)
        return {"file": request.model.name}

    return Step(
        "export",
        "export the network",
        lambda: {"weights": sha256_of(request.before)},
        run,
        request.model.parent,
        (request.model,),
    )


def _mattes(request: CycleRequest) -> Step:
    index = request.faces / "made.json"

    def run() -> Result:
        made = prepare_mattes(
            request.gan,
            request.data,
            request.faces,
            str(request.model),
            request.device,
            request.quiet,
            request.progress,
        )
        images = len(list_samples(request.gan, request.data))
        request.faces.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps({"pictures": images}) + "\n")
        return {"pictures": images, "matted": made}

    return Step(
        "mattes",
        "matte the generator's training photos",
        lambda: {"weights": sha256_of(request.before), "sets": [s.folder for s in request.gan.sets]},
        run,
        request.faces,
        (index,),
    )


def _gan(request: CycleRequest) -> Step:
    def run() -> Result:
        folder = request.generator.parent
        run_gan(
            GanRequest(
                request.gan,
                request.data,
                GanOptions(
                    folder, request.faces, request.device, workers=request.workers, every=request.every
                ),
                matter=str(request.model),
                detector=request.detector,
                quiet=request.quiet,
                say=request.say,
                progress=request.progress,
            )
        )
        return {"kimg": request.gan.kimg} | _scores_of(folder / "log.csv")

    return Step(
        "gan",
        f"train a generator at {request.gan.generator.size_px} px",
        lambda: {"recipe": request.gan.digest(), "weights": sha256_of(request.before)},
        run,
        request.generator.parent,
        (request.generator,),
    )


def _scores_of(log: Path) -> dict[str, float]:
    """Return the first, last and best FID of a run's log; empty if it was not scored."""
    with log.open(newline="") as file:
        values = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "fid"]
    return {"fid_first": values[0], "fid_last": values[-1], "fid_best": min(values)} if values else {}


def _synth(request: CycleRequest) -> Step:
    manifest = request.synthetic / "manifest.jsonl"

    def run() -> Result:
        report = synthesize(
            SynthesisRequest(
                out=request.synthetic,
                weights=request.generator,
                plan=parse_plan(0, request.truncation),
                count=request.count,
                keep=Filter(str(request.model), request.threshold),
                preview=request.out / "pictures" / "synthetic.png",
                device=request.device,
            ),
            request.watch,
        )
        for line in report_lines(report, request.synthetic):
            request.say(line)
        outcomes: dict[int, str] = {}
        for record in read_lines(manifest):
            outcomes[record["index"]] = record["outcome"]
        counts = Counter(outcomes.values())
        judged = max(1, counts["ok"] + counts["rejected"])
        return {
            "kept": counts["ok"],
            "rejected": counts["rejected"],
            "near copies": counts["duplicate"],
            "kept share": round(counts["ok"] / judged, 4),
        }

    return Step(
        "synth",
        f"generate {request.count} images whose alpha the matting network confirms",
        lambda: {
            "generator": sha256_of(request.generator),
            "weights": sha256_of(request.before),
            "n": request.count,
            "truncation": request.truncation,
            "threshold": request.threshold,
        },
        run,
        request.synthetic,
        (manifest,),
        grows="n",
    )


def _finetune(request: CycleRequest, with_synthetic: bool) -> Step:
    name = "finetune" if with_synthetic else "control"
    recipe = fine_tuning(request.recipe, request.steps, request.share, with_synthetic)

    def settings() -> Result:
        found = {"recipe": recipe.digest(), "weights": sha256_of(request.before)}
        manifest = request.synthetic / "manifest.jsonl"
        return found | ({"synthetic": sha256_of(manifest)} if with_synthetic else {})

    def run() -> Result:
        root = (
            gather_data(request.data, request.synthetic, request.out / "data")
            if with_synthetic
            else request.data
        )
        run_recipe(
            TrainRequest(
                recipe,
                root,
                request.run_options(name),
                weights=str(request.before),
                quiet=request.quiet,
                say=request.say,
            )
        )
        return {"steps": request.steps}

    return Step(
        name,
        "fine-tune with generated images" if with_synthetic else "fine-tune without them",
        settings,
        run,
        request.out / name,
        (request.out / name / "last.safetensors",),
        needs=("synth",) if with_synthetic else (),
        keeps=True,
    )


def _score(request: CycleRequest, control: bool) -> Step:
    # The last weights, not the best: the best were selected by their scores on these same images.
    weights = {"before": request.before, "after": request.out / "finetune" / "last.safetensors"}
    if control:
        weights["control"] = request.out / "control" / "last.safetensors"
    sheets = request.out / "pictures"

    def run() -> Result:
        return {
            "scores": compare(request.recipe, request.data, request.mattes, weights, sheets, request.device)
        }

    return Step(
        "score",
        "compare before and after on held-out images",
        lambda: {name: sha256_of(path) for name, path in weights.items()},
        run,
        sheets,
        tuple(sheets / f"{name}.png" for name in weights),
        needs=("finetune",),
    )
