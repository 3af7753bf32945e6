"""The dial: a base beside two experts, with how much it moves and how well it obeys as two numbers.

    base = load_base("merged/", motion_degree=1.3, control=1.0)      # motionloom animate --base merged/ --motion-degree 1.3

`merged/` is what `merge` writes for `exports: [experts]`: the base as it is, and `experts/` with two differences. Early
steps run base + motion_degree * degree, late ones base + control * control; 1 and 1 are the experts as merged, 0 and 0 the
base.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motionloom.denoisers.base import Base, Denoiser, Progress, Request
from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, WeightsError
from motionloom.merging.checkpoint import EXPERTS_FOLDER, Checkpoint, open_checkpoint
from motionloom.merging.recipe import ScheduleSection
from motionloom.sampling.experts import Experts, Level, Schedule, Switched, noise_level, timestep_fraction
from motionloom.start_noise.base import StartNoise

DIAL = ("motion_degree", "control")  # options of `load_base`
LARGEST_DIAL = 100.0
PREFIXES = ("model.diffusion_model.", "unet/", "transformer/", "unet.", "transformer.")


class DialledBase(Base):
    """A base whose network changes expert along the steps. Everything else is the base's own.

    Args:
        base: fresh: its network becomes the early expert for good.
        folder: what `merge` wrote with `exports: [experts]`.
        motion_degree: factor of the early expert's difference to the base.
        control: factor of the late expert's.

    Raises:
        ConfigError: a factor that is no usable number.
        WeightsError: there are no experts, or they belong to another network.
    """

    def __init__(self, base: Base, folder: Path, motion_degree: float = 1.0, control: float = 1.0) -> None:
        self._base, self._folder = base, folder
        self.motion_degree = _factor("motion-degree", motion_degree)
        self.control = _factor("control", control)
        self.name, self.codec, self.denoiser = base.name, base.codec, base.denoiser
        self.num_frames, self.fps, self.num_steps = base.num_frames, base.fps, base.num_steps
        self.native_size_px, self.size_multiple_px = base.native_size_px, base.size_multiple_px
        self.words, self.default_motion = base.words, base.default_motion
        self.reads_text = base.reads_text  # type: ignore[misc]  # as the base's class says
        self._sha256 = {name: _sha256(folder, name) for name in ("degree", "control")}
        self.experts = self._build()

    def _build(self) -> Experts:
        network: nn.Module = getattr(self.denoiser, "network", self.denoiser)
        section = _schedule(self._folder)
        level: Level = timestep_fraction
        if section.unit == "noise_level":
            level = noise_level(self._base.schedule(None))  # type: ignore[arg-type]  # noise levels ask nothing of a request
        schedule = Schedule(section.boundary, section.blend, section.width, level=level)
        with (
            open_checkpoint(_file(self._folder, "degree")) as degree,
            open_checkpoint(_file(self._folder, "control")) as control,
        ):
            return Experts(network, self._early_then_late(network, degree, control), schedule)

    @torch.no_grad()
    def _early_then_late(
        self, network: nn.Module, degree: Checkpoint, control: Checkpoint
    ) -> dict[str, Tensor]:
        """Makes the network the early expert; returns parameter -> late - early."""
        parameters = {**dict(network.named_buffers()), **dict(network.named_parameters())}
        files = {_own_name(name, parameters): name for name in (*degree, *control)}
        difference: dict[str, Tensor] = {}
        for own, name in files.items():
            if own not in parameters:
                raise WeightsError(
                    f'"{self._folder / EXPERTS_FOLDER}" changes "{name}", which the network of {self.name} lacks',
                    fix="merge again with this base, and groups that belong to its network",
                )
            parameter = parameters[own].data
            zero = torch.zeros(parameter.shape)
            to_early = self.motion_degree * (degree[name].float() if name in degree else zero)
            to_late = self.control * (control[name].float() if name in control else zero)
            base = parameter.float().cpu()
            early, late = ((base + delta).to(parameter.dtype) for delta in (to_early, to_late))
            parameter.copy_(early)
            difference[own] = late.float().to(parameter.device) - parameter.float()
        return difference

    @contextmanager
    def adapted(self, request: Request) -> Iterator[Denoiser]:
        """See `Base`."""
        with self.experts, self._base.adapted(request) as denoiser:
            yield Switched(denoiser, self.experts)

    def facts(self) -> dict[str, Any]:
        """See `Base`."""
        facts = self._base.facts()
        dial = {"motion_degree": self.motion_degree, "control": self.control}
        options = {**facts.get("options", {}), **dial}
        return {**facts, "options": options, "experts_sha256": self._sha256}

    def check(self, request: Request) -> None:
        """See `Base`."""
        self._base.check(request)

    def encode(self, request: Request, generator: torch.Generator) -> Tensor | None:
        """See `Base`."""
        return self._base.encode(request, generator)

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        """See `Base`."""
        return self._base.latent_shape(request)

    def start_noise(self, request: Request) -> StartNoise:
        """See `Base`."""
        return self._base.start_noise(request)

    def schedule(self, request: Request) -> Any:
        """See `Base`."""
        return self._base.schedule(request)

    def condition(self, request: Request, first_latent: Tensor | None, generator: torch.Generator) -> Any:
        """See `Base`."""
        return self._base.condition(request, first_latent, generator)

    def decode(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """See `Base`."""
        return self._base.decode(latents, request, progress)

    def notes(self, request: Request) -> list[str]:
        """See `Base`."""
        return self._base.notes(request)


def dialled(base: Base, folder: Path, options: dict[str, Any]) -> Base:
    """The base with its experts where the folder has some; the base itself where it has none.

    Args:
        base: what the folder holds.
        folder: of the base.
        options: those of DIAL that were given.

    Raises:
        WeightsError: a dial was given and there are no experts.
    """
    if not (folder / EXPERTS_FOLDER).is_dir():
        if options:
            raise no_experts(folder)
        return base
    return DialledBase(base, folder, **options)


def no_experts(base: str | Path) -> WeightsError:
    """What to say when a dial was given and the base has nothing to turn."""
    return WeightsError(
        f'"{base}" carries no experts, so there is nothing to dial',
        fix="make some with `motionloom merge`, a decouple recipe and exports: [experts], and give that folder as --base",
    )


def _factor(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) <= LARGEST_DIAL:
        raise ConfigError(
            f"got {name} {value!r}, expected a number of at most {LARGEST_DIAL:g}",
            fix="1 is as merged, 0 is the base",
        )
    return number


def _schedule(folder: Path) -> ScheduleSection:
    path = folder / EXPERTS_FOLDER / "schedule.json"
    try:
        return ScheduleSection.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError) as problem:
        raise WeightsError(f'cannot read "{path}": {type(problem).__name__}', fix="merge again") from problem


def _file(folder: Path, expert: str) -> Path:
    return folder / EXPERTS_FOLDER / f"{expert}.safetensors"


def _sha256(folder: Path, expert: str) -> str:
    path = _file(folder, expert)
    if not path.is_file():
        raise WeightsError(f'"{path}" is missing', fix="merge again with exports: [experts]")
    return sha256_of(path)


def _own_name(name: str, parameters: dict[str, Tensor]) -> str:
    """A tensor's name inside the network."""
    stripped = (name.removeprefix(prefix) for prefix in PREFIXES)
    return next((own for own in (name, *stripped) if own in parameters), name)
