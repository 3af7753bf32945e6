"""The bases `animatediff-v3` and `tiny-animatediff`: Stable Diffusion 1.5 with motion module v3.

Photos move by MIVA adapters, or by a prompt, alone or through a stage-1 text adapter (`animatediff_text.py`). Weights come
from the hub's cache, from a folder of a diffusers pipeline, or from the two official files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from motionloom.codecs.image_autoencoder import ImageAutoencoder
from motionloom.conditions.asked import Asked
from motionloom.conditions.clip_text import TextTokens
from motionloom.denoisers.animatediff_text import (
    TextCondition,
    TextReadingNetwork,
    check_text,
    mounted_as_asked,
    moves_by_text,
    quiet_transformers,
    random_text,
    text_of_checkpoint,
    text_of_folder,
    text_of_repository,
    with_group_norms,
)
from motionloom.denoisers.base import Denoiser, Request
from motionloom.denoisers.hub import FETCH_MOTION, FETCH_SPATIAL, MOTION_REPOSITORY, SPATIAL_REPOSITORY
from motionloom.denoisers.miva import MivaBase, MivaOptions
from motionloom.denoisers.official_files import fill, read_part
from motionloom.denoisers.pretrained import (
    class_of,
    device_and_dtype,
    find_folder,
    load_part,
    quiet_diffusers,
    read_options,
    to_precision,
    with_random_values,
    without_values,
)
from motionloom.denoisers.text_free import TextFreeNetwork
from motionloom.durable import write_json
from motionloom.errors import ConfigError, WeightsError
from motionloom.sampling.rescaled_guidance import RescaledGuidance
from motionloom.sampling.schedules import ddim, stable_diffusion
from motionloom.weights import load_strictly

NAME = "animatediff-v3"
HALF = "float16"
POSITIONS = ".pos_encoder.pe"
NATIVE_SIZE_PX = (320, 512)  # height, width

# Stable Diffusion 1.5, as diffusers names it
SPATIAL_CONFIG: Mapping[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
MOTION_CONFIG: Mapping[str, Any] = {"use_motion_mid_block": False, "motion_max_seq_length": 32}
VAE_CONFIG: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}


class AnimateDiffOptions(MivaOptions):
    """How sampling runs; where paper and release disagree the default is ours, and "convention" names both.

    Attributes:
        group_norm: statistics "per_frame", AnimateDiff v3's own (and the paper's), or "joint" over all frames,
            as released.
        beta_schedule: "scaled_linear", Stable Diffusion's and as released, or "linear", AnimateDiff's own and
            the paper's.
        guidance: scale of classifier-free guidance by the text; MIVA adapters have none.
    """

    group_norm: Literal["per_frame", "joint"] = "per_frame"
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    guidance: float = Field(default=7.5, ge=1)


CONVENTIONS: dict[str, dict[str, str]] = {
    "default": {},
    "paper": {"beta_schedule": "linear"},
    "released": {"group_norm": "joint"},
}


class AnimateDiffBase(MivaBase):
    """AnimateDiff: 16 frames at 8 fps, 512 x 320 px, DDIM in 50 steps, under MIVA adapters without guidance."""

    num_frames, fps = 16, 8.0
    reads_text: ClassVar[bool] = True
    options: AnimateDiffOptions
    text_source: Callable[[], TextTokens]

    @cached_property
    def text(self) -> TextTokens:
        """What reads prompts, in float32 beside the network; loaded for the first one."""
        text = self.text_source()
        text.encoder.to(self.denoiser.network.device)
        return text

    @property
    def group_norm(self) -> Literal["per_frame", "joint"]:  # type: ignore[override]
        """See `MivaBase`."""
        return self.options.group_norm

    def check(self, request: Request) -> None:
        """See `Base`; the motion modules know a limited number of frames."""
        super().check(request)
        longest = int(self.denoiser.network.config.motion_max_seq_length)
        if request.num_frames > longest:
            raise ConfigError(
                f"got {request.num_frames} frames, {self.name} knows the positions of {longest}",
                fix=f"ask for {longest} frames or fewer; {self.num_frames} is what it was trained with",
            )

    def check_motions(self, request: Request) -> None:
        """See `MivaBase`; a prompt alone or a text adapter will do too."""
        if moves_by_text(request):
            check_text(self, request)
            return
        if request.prompt:
            raise ConfigError(
                f'{self.name} under MIVA adapters reads no text, got the prompt "{request.prompt}"',
                fix="leave out the prompt, or the adapters",
            )
        super().check_motions(request)

    def condition(
        self, request: Request, first_latent: Tensor | None, generator: torch.Generator
    ) -> TextCondition | None:
        """See `Base`."""
        if not moves_by_text(request):
            return None
        return TextCondition(*self.text([request.prompt or "", ""]).tensor_split(2))

    @contextmanager
    def adapted(self, request: Request) -> Iterator[Denoiser]:
        """See `Base`: MIVA's adapters, or the network told the text, under guidance."""
        network = self.denoiser.network
        if moves_by_text(request):
            with with_group_norms(network, self.group_norm), mounted_as_asked(network, request):
                yield RescaledGuidance(TextReadingNetwork(network), self.options.guidance, rescale=0.0)
        else:
            with super().adapted(request) as denoiser:
                yield denoiser

    def notes(self, request: Request) -> list[str]:
        """See `Base`: an adapter wants the GroupNorm and the noise it was trained with."""
        notes = []
        for one in request.motions:
            trained = _trained_options(one)
            if trained is None:
                continue
            wanted = [
                f"{name}={getattr(trained, name)}"
                for name in ("group_norm", "beta_schedule")
                if getattr(trained, name) != getattr(self.options, name)
            ]
            if wanted:
                notes.append(
                    f"{one.name} was trained with {' and '.join(wanted)}; "
                    + " ".join(f"--base-option {option}" for option in wanted)
                )
        return notes

    def save(self, folder: Path) -> None:
        """Write a folder that `load_base` reads: a diffusers pipeline, with the text encoder and its vocabulary."""
        parts = {
            "unet": self.denoiser.network,
            "vae": self.codec.network,
            "text_encoder": self.text.encoder,
        }
        with quiet_transformers():
            for name, part in parts.items():
                part.save_pretrained(folder / name)
        words: Any = self.text.tokenizer
        if vocabulary := getattr(words, "folder", None):
            (folder / "tokenizer").mkdir()
            for file in ("vocab.json", "merges.txt"):
                shutil.copyfile(vocabulary / file, folder / "tokenizer" / file)
        write_json(folder / "model_index.json", {"_class_name": "AnimateDiffPipeline"})

    def scheduler(self) -> Any:
        """See `MivaBase`: timesteps 981, 961, ..., 1 in 50 steps; deterministic; no clipping."""
        return ddim(stable_diffusion(self.options.beta_schedule))

    def levels(self, request: Request) -> tuple[float, float]:
        """See `MivaBase`: sqrt(abar) and sqrt(1 - abar)."""
        abar: Tensor = stable_diffusion(self.options.beta_schedule).alphas_cumprod[
            self.options.start_timestep
        ]
        return float(abar.sqrt()), float((1 - abar).sqrt())


def load_animatediff(
    folder: str | os.PathLike[str] | None = None,
    *,
    motion_module: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> AnimateDiffBase:
    """The base, from wherever its weights are. The text encoder is loaded when a prompt is given.

    Args:
        folder: of a diffusers pipeline (unet, vae and motion_adapter), or its hub id; None takes the two official
            hub repositories.
        motion_module, checkpoint: instead, the official files: v3_sd15_mm.ckpt and a Stable Diffusion 1.5
            checkpoint, as .ckpt or .safetensors.
        revision: of the folder's hub id.
        device, dtype: where and how precisely to compute.
        options: see `AnimateDiffOptions`, and convention="default", "paper" or "released".

    Raises:
        WeightsError: weights are missing (the fix fetches them), damaged, or of another model.
        ConfigError: an option that does not exist.
    """
    name = NAME if folder is None else Path(folder).name
    chosen = chosen_options(options, name)
    place, precision = device_and_dtype(device, dtype, HALF)
    given = {"revision": revision} if revision else {}
    if revision and folder is None:
        raise ConfigError(
            f'got revision="{revision}", but {name} comes from two repositories', fix="leave it out"
        )
    if motion_module is not None or checkpoint is not None:
        if motion_module is None or checkpoint is None:
            raise ConfigError(
                "got one of motion_module and checkpoint, expected both",
                fix="give v3_sd15_mm.ckpt and a Stable Diffusion 1.5 checkpoint",
            )
        text: Callable[[], TextTokens] = partial(text_of_checkpoint, checkpoint)
        network, autoencoder = load_official(motion_module, checkpoint)
        network, autoencoder = to_precision(network, precision), to_precision(autoencoder, precision)
    else:
        network, autoencoder = _load_folders(folder, revision, precision)
        text = text_of_repository
        if folder is not None:
            text = partial(text_of_folder, find_folder(folder, revision=revision))
    return _base(name, network.to(place), autoencoder.to(place), text, chosen, given)


def load_tiny(seed: int | str = 0, **options: Any) -> AnimateDiffBase:
    """Random weights of the same layout, made on the spot from a seed: for tests and dry runs."""
    from diffusers import AutoencoderKL, UNetMotionModel

    rest = dict(options)
    device = rest.pop("device", None)
    place, precision = device_and_dtype(device or "cpu", rest.pop("dtype", None), HALF)
    chosen = chosen_options(rest, "tiny-animatediff")
    models = (UNetMotionModel, TINY_NETWORK), (AutoencoderKL, TINY_VAE)
    network, autoencoder = (
        to_precision(model, precision) for model in with_random_values(int(seed), *models)
    )
    if device:  # else where torch makes them, which may be the meta device
        network, autoencoder = network.to(place), autoencoder.to(place)
    given, text = {"seed": int(seed)}, partial(random_text, int(seed))
    return _base("tiny-animatediff", network, autoencoder, text, chosen, given, native_size_px=(64, 64))


TINY_NETWORK: Mapping[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "num_attention_heads": 8,
    "use_motion_mid_block": False,
}
TINY_VAE: Mapping[str, Any] = {
    **VAE_CONFIG,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
}


def chosen_options(options: Mapping[str, Any], name: str) -> AnimateDiffOptions:
    rest = dict(options)
    convention = rest.pop("convention", "default")
    if convention not in CONVENTIONS:
        raise ConfigError(
            f'got convention="{convention}", expected one of {", ".join(CONVENTIONS)}', fix="choose one"
        )
    return read_options(AnimateDiffOptions, CONVENTIONS[convention] | rest, name)


def _trained_options(one: Asked) -> AnimateDiffOptions | None:
    """The options an adapter was trained under, as far as its file says: its own, or those of the release."""
    assert one.adapter is not None, "check() lets no word through"
    facts = one.adapter.facts
    if "converted from" in facts:
        return chosen_options({"convention": one.adapter.settings.preset}, one.name)
    if "base_options" not in facts:
        return None
    names = {"convention", *AnimateDiffOptions.model_fields}
    given = {name: value for name, value in facts["base_options"].items() if name in names}
    return chosen_options(given, one.name)


def _base(
    name: str,
    network: Any,
    autoencoder: Any,
    text: Callable[[], TextTokens],
    options: AnimateDiffOptions,
    given: Mapping[str, Any],
    native_size_px: tuple[int, int] = NATIVE_SIZE_PX,
) -> AnimateDiffBase:
    denoiser = TextFreeNetwork(network, "epsilon", int(network.config.cross_attention_dim), True)
    codec = ImageAutoencoder(autoencoder)
    multiple = codec.factor * int(2 ** (len(network.config.block_out_channels) - 1))  # 8 x 8 = 64
    base = AnimateDiffBase(name, denoiser, codec, (native_size_px, multiple), options, given)
    base.text_source = text
    return base


def _load_folders(
    folder: str | os.PathLike[str] | None, revision: str | None, dtype: torch.dtype
) -> tuple[Any, Any]:
    """(network, autoencoder) of a diffusers pipeline, or of the two official repositories."""
    from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel

    if folder is None:
        both = f"{FETCH_SPATIAL} && {FETCH_MOTION}"
        spatial, motion = find_folder(SPATIAL_REPOSITORY, both), find_folder(MOTION_REPOSITORY, FETCH_MOTION)
        part, fetch, fetch_motion = "", FETCH_SPATIAL, FETCH_MOTION
    else:
        spatial = motion = find_folder(folder, revision=revision)
        part, fetch, fetch_motion = "motion_adapter", "", ""
    autoencoder = load_part(AutoencoderKL, spatial, "vae", dtype, fetch)
    if class_of(spatial / "unet", fetch) == "UNetMotionModel":
        return load_part(UNetMotionModel, spatial, "unet", dtype, fetch), autoencoder
    unet = load_part(UNet2DConditionModel, spatial, "unet", dtype, fetch)
    adapter = load_part(MotionAdapter, motion, part, dtype, fetch_motion)
    return _joined(unet, adapter, motion), autoencoder


def _joined(unet: Any, adapter: Any, where: str | os.PathLike[str]) -> Any:
    """A spatial U-Net with motion modules between its layers."""
    from diffusers import UNetMotionModel

    try:
        with quiet_diffusers():
            return UNetMotionModel.from_unet2d(unet, adapter)
    except (ValueError, RuntimeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise WeightsError(
            f'the motion modules of "{where}" do not fit this U-Net: {reason}',
            fix="give the motion module v3 and a Stable Diffusion 1.5 checkpoint",
        ) from None


# --- the official files -------------------------------------------------------------------------------------


def load_official(
    motion_module: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    spatial_config: Mapping[str, Any] = SPATIAL_CONFIG,
    motion_config: Mapping[str, Any] = MOTION_CONFIG,
    vae_config: Mapping[str, Any] = VAE_CONFIG,
) -> tuple[Any, Any]:
    """(network, autoencoder) from a motion module file and a Stable Diffusion checkpoint, every key accounted for.

    Raises:
        WeightsError: a file is damaged, or its keys are not those of the model.
    """
    from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet = without_values(UNet2DConditionModel, spatial_config)
    autoencoder = without_values(AutoencoderKL, vae_config)
    for model, prefix, convert in (
        (unet, "model.diffusion_model.", convert_ldm_unet_checkpoint),
        (autoencoder, "first_stage_model.", convert_ldm_vae_checkpoint),
    ):
        fill(model, read_part(checkpoint, prefix), partial(convert, config=dict(model.config)), checkpoint)
    sizes = {
        "block_out_channels": tuple(unet.config.block_out_channels),
        "motion_layers_per_block": unet.config.layers_per_block,
    }
    adapter = without_values(MotionAdapter, {**sizes, **motion_config})
    load_strictly(adapter, motion_modules(read_part(motion_module), motion_module), motion_module)
    return _joined(unet, adapter, motion_module), autoencoder


def motion_modules(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The official names of a motion module file => diffusers' names of a `MotionAdapter`.

    The file has a position table for each of the two attentions of a block, diffusers one for both.

    Raises:
        WeightsError: the two tables of a block differ.
    """
    from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers

    translate: Any = convert_animatediff_checkpoint_to_diffusers  # all names but those of the tables
    named = {name.removeprefix("module."): value for name, value in tensors.items()}
    converted: dict[str, Tensor] = translate(named)
    for name, table in named.items():
        if not name.endswith(POSITIONS):
            continue
        block = (
            name.removesuffix(POSITIONS)
            .replace(".temporal_transformer", "")
            .rpartition(".attention_blocks")[0]
        )
        if not torch.equal(converted.setdefault(f"{block}.pos_embed.pe", table), table):
            raise WeightsError(
                f'"{path}" has two different position tables in one block ("{name}")',
                fix="give the motion module v3",
            )
    return converted
