"""recipe -> run folder: the verb `train`.

result = train("recipes/lamd/bair_autoencoder.yaml", run_dir="runs/bair")     # the same call again resumes
plan = train("recipes/lamd/bair_autoencoder.yaml", dry_run=True).forecast     # trains nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from motionloom.training import randomness
from motionloom.training.forecast import forecast
from motionloom.training.loop import TrainingLoop, new_accelerator, trackers_finished
from motionloom.training.progress import ProgressBar
from motionloom.training.recipe import Recipe, load_recipe
from motionloom.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunResult:
    """What a call of `train` did. After a dry run only `forecast` is filled."""

    run_dir: Path | None = None
    final: Path | None = None  # folder with the weights in shipping form
    steps: int = 0
    resumed_from: int | None = None  # step of the checkpoint this call started from
    skipped_checkpoints: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(
        default_factory=dict
    )  # the last logged means: losses, gradient norms, ...
    clips_used: int = 0
    clips_refused: list[dict[str, str]] = field(default_factory=list)  # name and reason
    seconds: float = 0.0
    forecast: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`; a dry run prints its forecast."""
        if self.forecast is not None:
            return self.forecast
        values = asdict(self)
        del values["forecast"]
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    run_dir: str | Path | None = None,
    overrides: Iterable[str] = (),
    dry_run: bool = False,
    progress: bool | None = None,
) -> RunResult:
    """Train what a recipe describes; the same call again resumes, with bit-identical results on CPU.

    Args:
        recipe: a YAML file, a mapping or a `Recipe`.
        run_dir: the run folder; `runs/<name of the recipe>` when None.
        overrides: "key.path=value", applied to the recipe.
        dry_run: build, measure and forecast, but train and write nothing.
        progress: True and False show or hide the progress bar on stderr; None shows it on a terminal.

    Raises:
        ConfigError: the recipe is wrong.
        InputError: the recipe or clips cannot be used; the message lists every clip with its reason.
        StateError: the folder is in use, or was started with another recipe, dataset or number of processes.
        NumericError: training diverged; the last good checkpoint is kept.
        ResourceError: memory or disk ran out.
        Interrupted: a signal asked to stop; the state was saved.
    """
    settled = load_recipe(recipe, overrides)
    if dry_run:
        return RunResult(forecast=forecast(settled))
    folder = Path(run_dir) if run_dir is not None else Path("runs") / _name_of(recipe, settled)
    accelerator = new_accelerator(settled, folder)
    with (
        randomness.unchanged_randomness(),
        ProgressBar(settled.steps, progress if accelerator.is_main_process else False) as bar,
    ):
        run = RunFolder(folder, settled, bar.say)
        with run if accelerator.is_main_process else nullcontext(), trackers_finished(accelerator):
            randomness.seed_everything(settled.seed)
            with accelerator.main_process_first():  # what is prepared once is found by the others
                objective, dataset = settled.stage.build(settled, accelerator.device)
            loop = TrainingLoop(settled, objective, dataset, run, accelerator, bar)
            loop.resume()
            loop.report_refused()
            loop.run()
            loop.export()
    return RunResult(
        run_dir=folder,
        final=run.final,
        steps=loop.progress.step,
        resumed_from=loop.resumed_from,
        skipped_checkpoints=loop.skipped_checkpoints,
        numbers=loop.last_numbers,
        clips_used=len(dataset),
        clips_refused=[{"name": name, "reason": reason} for name, reason in dataset.refused],
        seconds=loop.progress.seconds,
    )


def _name_of(source: object, recipe: Recipe) -> str:
    return Path(source).stem if isinstance(source, str | Path) else recipe.stage.kind
