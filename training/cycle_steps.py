"""The steps of `stylematte cycle`: each is what the verb of its name does, in a folder of its own."""

import csv
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stylematte.files import sha256_of
from stylematte.media.json_lines import read_lines
from stylematte.weights import find_trained
from stylematte_cli.commands.progress import with_progress

if TYPE_CHECKING:
    from training.config import Recipe
    from training.cycle import Result, Step
    from training.gan.config import GanRecipe
    from training.loop import RunOptions


@dataclass(frozen=True)
class Wish:
    """What the command line says; see `stylematte_cli.commands.cycle.cycle`."""

    data: Path
    out: Path
    recipe: "Recipe"
    gan: "GanRecipe"
    weights: str
    trained_generator: str
    count: int
    truncation: str
    threshold: float
    steps: int
    mattes: Path
    backbone: str
    detector: str
    every: int | None
    workers: int
    device: str
    quiet: bool

    @property
    def before(self) -> Path:
        """The matting network that the cycle begins with."""
        return find_trained(self.weights) if self.weights else self.out / "pretrain" / "best.safetensors"

    @property
    def model(self) -> Path:
        """The same as a file of the runtime."""
        return self.out / "export" / f"{self.before.stem}.onnx"

    @property
    def faces(self) -> Path:
        """Mattes of the generator's real pictures."""
        return self.out / "mattes_for_gan"

    @property
    def generator(self) -> Path:
        """What draws."""
        if self.trained_generator:
            return find_trained(self.trained_generator, "--generator")
        return self.out / "gan" / "best.safetensors"

    @property
    def synthetic(self) -> Path:
        """What it drew."""
        return self.out / "synthetic"

    def run_options(self, folder: str) -> "RunOptions":
        """How a matting network is trained in a folder."""
        from training.loop import RunOptions

        return RunOptions(
            self.out / folder, self.mattes, self.device, workers=self.workers, every=self.every or 500
        )


def overlap(wish: Wish) -> str:
    """A set that both recipes read and hold out different parts of; "" where there is none."""
    if wish.trained_generator or wish.gan.held_out_every == wish.recipe.held_out_every:
        return ""
    scored = {s.folder for s in wish.recipe.validation or wish.recipe.sets}
    return next((s.folder for s in wish.gan.sets if s.folder in scored), "")


def check_inputs(wish: Wish) -> None:
    """Look for the data sets of both recipes and for the weights given, before anything is written.

    Raises:
        DataError: A set is missing, or nothing of it is left to train on.
        MissingError: Weights are not here.
    """
    from training.gan.data import list_pictures
    from training.plan import make_plan

    make_plan(wish.recipe, wish.data)
    if wish.weights:
        find_trained(wish.weights)
    if wish.trained_generator:
        find_trained(wish.trained_generator, "--generator")
    else:
        list_pictures(wish.gan, wish.data)


def all_steps(wish: Wish, control: bool) -> list["Step"]:
    """The steps of a cycle, in order."""
    steps = [] if wish.weights else [_pretrain(wish)]
    steps.append(_export(wish))
    if not wish.trained_generator:
        steps += [_mattes(wish), _gan(wish)]
    steps += [_synth(wish), _finetune(wish, with_synthetic=True)]
    if control:
        steps.append(_finetune(wish, with_synthetic=False))
    return [*steps, _score(wish, control)]


def _pretrain(wish: Wish) -> "Step":
    from training.cycle import Step

    def run() -> "Result":
        from training.run import run_recipe

        run_recipe(
            *(wish.recipe, wish.data, wish.run_options("pretrain"), "", "", wish.backbone),
            *(wish.quiet, typer.echo),
        )
        return {"network": wish.recipe.preset}

    return Step(
        "pretrain",
        f"train {wish.recipe.preset} on photos and their mattes",
        lambda: {"recipe": wish.recipe.digest()},
        run,
        wish.out / "pretrain",
        (wish.before,),
    )


def _export(wish: Wish) -> "Step":
    from training.cycle import Step

    def run() -> "Result":
        from stylematte_cli.commands.export import export

        export(wish.model.parent, weights=str(wish.before), overwrite=True, quiet=True)
        return {"file": wish.model.name}

    return Step(
        "export",
        "make a file of it that mattes photos",
        lambda: {"weights": sha256_of(wish.before)},
        run,
        wish.model.parent,
        (wish.model,),
    )


def _mattes(wish: Wish) -> "Step":
    from training.cycle import Step

    index = wish.faces / "made.json"

    def run() -> "Result":
        from training.gan.data import list_pictures
        from training.gan.run import prepare_mattes

        progress = partial(with_progress, unit="matte", quiet=wish.quiet)
        made = prepare_mattes(
            wish.gan, wish.data, wish.faces, str(wish.model), wish.device, wish.quiet, progress
        )
        pictures = len(list_pictures(wish.gan, wish.data))
        wish.faces.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps({"pictures": pictures}) + "\n")
        return {"pictures": pictures, "matted": made}

    return Step(
        "mattes",
        "matte the photos that the generator shall learn from",
        lambda: {"weights": sha256_of(wish.before), "sets": [s.folder for s in wish.gan.sets]},
        run,
        wish.faces,
        (index,),
    )


def _gan(wish: Wish) -> "Step":
    from training.cycle import Step

    def run() -> "Result":
        from training.gan.run import GanRequest, run_gan

        folder = wish.generator.parent
        run_gan(
            GanRequest(
                recipe=wish.gan,
                data=wish.data,
                out=folder,
                mattes=wish.faces,
                matter=str(wish.model),
                detector=wish.detector,
                device=wish.device,
                workers=wish.workers,
                every=wish.every,
                quiet=wish.quiet,
                say=typer.echo,
            )
        )
        return {"kimg": wish.gan.kimg} | _scores_of(folder / "log.csv")

    return Step(
        "gan",
        f"train a generator at {wish.gan.generator.size_px} px",
        lambda: {"recipe": wish.gan.digest(), "weights": sha256_of(wish.before)},
        run,
        wish.generator.parent,
        (wish.generator,),
    )


def _scores_of(log: Path) -> dict[str, float]:
    """First and last FID of a run's log; nothing where it was not scored."""
    with log.open(newline="") as file:
        values = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "fid"]
    return {"fid_first": values[0], "fid_last": values[-1], "fid_best": min(values)} if values else {}


def _synth(wish: Wish) -> "Step":
    from training.cycle import Step

    manifest = wish.synthetic / "manifest.jsonl"

    def run() -> "Result":
        from stylematte_cli.commands.synth import synth

        synth(
            wish.synthetic,
            count=wish.count,
            truncation=wish.truncation,
            weights=str(wish.generator),
            use_filter=True,
            threshold=wish.threshold,
            matting=str(wish.model),
            preview=wish.out / "pictures" / "synthetic.png",
            device=wish.device,
            quiet=wish.quiet,
        )
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
        f"draw {wish.count} pictures that the network agrees with",
        lambda: {
            "generator": sha256_of(wish.generator),
            "weights": sha256_of(wish.before),
            "n": wish.count,
            "truncation": wish.truncation,
            "threshold": wish.threshold,
        },
        run,
        wish.synthetic,
        (manifest,),
        grows="n",
    )


def _finetune(wish: Wish, with_synthetic: bool) -> "Step":
    from training.cycle import Step, fine_tuning, gather_data

    name = "finetune" if with_synthetic else "control"
    recipe = fine_tuning(wish.recipe, wish.steps, with_synthetic)

    def settings() -> "Result":
        found = {"recipe": recipe.digest(), "weights": sha256_of(wish.before)}
        manifest = wish.synthetic / "manifest.jsonl"
        return found | ({"synthetic": sha256_of(manifest)} if with_synthetic else {})

    def run() -> "Result":
        from training.run import run_recipe

        root = gather_data(wish.data, wish.synthetic, wish.out / "data") if with_synthetic else wish.data
        run_recipe(
            *(recipe, root, wish.run_options(name), "", str(wish.before), ""),
            *(wish.quiet, typer.echo),
        )
        return {"steps": wish.steps}

    return Step(
        name,
        "fine-tune on generated pictures among the others" if with_synthetic else "fine-tune without them",
        settings,
        run,
        wish.out / name,
        (wish.out / name / "last.safetensors",),
        needs=("synth",) if with_synthetic else (),
        keeps=True,
    )


def _score(wish: Wish, control: bool) -> "Step":
    from training.cycle import Step, compare

    # The last weights, not the best ones: those were chosen by the pictures that score here.
    weights = {"before": wish.before, "after": wish.out / "finetune" / "last.safetensors"}
    if control:
        weights["control"] = wish.out / "control" / "last.safetensors"
    sheets = wish.out / "pictures"

    def run() -> "Result":
        return {"scores": compare(wish.recipe, wish.data, wish.mattes, weights, sheets, wish.device)}

    return Step(
        "score",
        "compare before and after on held-out pictures",
        lambda: {name: sha256_of(path) for name, path in weights.items()},
        run,
        sheets,
        tuple(sheets / f"{name}.png" for name in weights),
        needs=("finetune",),
    )
