"""The bases `dynamicrafter-512`, `-1024`, `-256` and `tiny-dynamicrafter`: photo and text -> clip.

Two motion words set the frame rate the network is told, in plain terms: "lively" (1 is the liveliest it was trained
with) and "calm". A stage-1 text adapter is given like any motion, as its file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from motionloom.adapters.text_adapter import TextAdapter
from motionloom.codecs.image_autoencoder import ImageAutoencoder
from motionloom.conditions.asked import Asked
from motionloom.conditions.clip_text import ClipWords, HashedWords, TextTokens, Tokenizer
from motionloom.conditions.image_tokens import ImageTokens, for_frames
from motionloom.denoisers.base import Base, Denoiser, Progress, Request
from motionloom.denoisers.dynamicrafter.checkpoint import load_checkpoint
from motionloom.denoisers.dynamicrafter.condition import VideoCondition, VideoDenoiser
from motionloom.denoisers.dynamicrafter.folder import read_folder
from motionloom.denoisers.dynamicrafter.hub import (
    CHECKPOINT,
    FETCH_VOCABULARY,
    REPOSITORIES,
    VOCABULARY_FILES,
    VOCABULARY_REPOSITORY,
    fetch,
)
from motionloom.denoisers.dynamicrafter.parts import TINY, DynamiCrafterConfig, Parts, build_random
from motionloom.denoisers.dynamicrafter.unet import TRAINED_FRAMES
from motionloom.denoisers.pretrained import device_and_dtype, fingerprint, read_options
from motionloom.errors import ConfigError, WeightsError
from motionloom.sampling.rescaled_guidance import RescaledGuidance
from motionloom.sampling.zero_terminal_snr import (
    BETA_END,
    BETA_START,
    NUM_TRAIN_TIMESTEPS,
    ZeroTerminalSNRDDIM,
)

HALF = "float16"
WORDS = ("lively", "calm")

_DDIM: Any = DDIMScheduler


class DynamiCrafterOptions(BaseModel):
    """How sampling runs; the defaults are the release's.

    Attributes:
        guidance: scale of classifier-free guidance.
        guidance_rescale: 0..1; None takes the checkpoint's.
        eta: 1 is ancestral sampling, 0 deterministic.
        start: the first timestep is start - 1; 940 is CIL's, against motion that follows the photo too closely. For
            the v-prediction models.
        unscale: "released" leaves the result scaled by the last value of the dynamic rescale, "exact" undoes it.
        ending: the last picture, for the interpolation checkpoint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    guidance: float = Field(default=7.5, ge=1)
    guidance_rescale: float | None = Field(default=None, ge=0, le=1)
    eta: float = Field(default=1.0, ge=0, le=1)
    start: int = Field(default=NUM_TRAIN_TIMESTEPS, ge=1, le=NUM_TRAIN_TIMESTEPS)
    unscale: Literal["released", "exact"] = "released"
    ending: Path | None = None


class DynamiCrafterBase(Base):
    """DynamiCrafter as a base; see the top of the file.

    Args:
        config: sizes and schedule.
        parts: the networks, in evaluation mode.
        tokenizer: of the text encoder.
        options: see `DynamiCrafterOptions`.
        name: what it is called; None is the configuration's.
    """

    num_frames, fps, num_steps = TRAINED_FRAMES, 8.0, 50
    words = WORDS
    reads_text: ClassVar[bool] = True

    def __init__(
        self,
        config: DynamiCrafterConfig,
        parts: Parts,
        tokenizer: Tokenizer,
        options: DynamiCrafterOptions | None = None,
        name: str | None = None,
    ) -> None:
        self.config, self.parts = config, parts
        self.options = options or DynamiCrafterOptions()
        self.name = name or config.name
        self.codec = self.autoencoder = ImageAutoencoder(parts.vae)
        self.denoiser = VideoDenoiser(parts.unet, config.prediction)
        self.text = TextTokens(parts.text_encoder, tokenizer)
        self.image = ImageTokens(parts.image_encoder, parts.image_projection)
        self.native_size_px = config.native_size_px
        self.size_multiple_px = self.autoencoder.factor * 2 ** (len(config.unet.channel_mult) - 1)

    def check(self, request: Request) -> None:
        """See `Base`."""
        if request.overscan:
            raise ConfigError(f'{self.name} has no "overscan"', fix="leave it out, or take --base mini")
        if self.config.given == "first" and (request.loop or self.options.ending):
            raise ConfigError(
                f"{self.name} was trained with the first frame given alone, so it cannot end at a picture",
                fix="convert the interpolation checkpoint (Doubiiu/DynamiCrafter_512_Interp) and take that folder",
            )
        if self.config.given == "first-and-last" and not (request.loop or self.options.ending):
            raise ConfigError(
                f"{self.name} goes from one picture to another, and no last one was given",
                fix="give loop to end at the photo, or the option ending=PICTURE",
            )
        self._rate(request)
        if request.prompt:
            self.text.tokenizer([request.prompt])

    def encode(self, request: Request, generator: torch.Generator) -> Tensor:
        """See `Base`: a sample of the posterior, as released; encoded once for all frames."""
        return self.autoencoder.encode(request.photo[:, :, None], generator)

    def condition(
        self, request: Request, first_latent: Tensor | None, generator: torch.Generator
    ) -> VideoCondition:
        """See `Base`."""
        assert first_latent is not None
        frames = request.num_frames
        photo = request.photo
        tokens = self.image(torch.cat([photo, torch.zeros_like(photo)]))
        image, empty_image = for_frames(tokens, frames).tensor_split(2)
        text, empty_text = self.text([request.prompt or "", ""]).to(photo.device).tensor_split(2)
        return VideoCondition(
            text=text,
            image=image,
            still=self._still(request, first_latent),
            rate=torch.tensor([self._rate(request)], device=photo.device),
            empty_text=empty_text,
            empty_image=empty_image,
        )

    def schedule(self, request: Request) -> Any:
        """See `Base`."""
        if self.config.prediction == "v_prediction":
            return ZeroTerminalSNRDDIM(
                self.config.base_scale, self.options.eta, self.options.unscale, self.options.start
            )
        return plain_ddim(self.options.eta)

    @contextmanager
    def adapted(self, request: Request) -> Iterator[Denoiser]:
        """See `Base`: guidance, with the text adapters that were asked for."""
        rescale = self.options.guidance_rescale
        with ExitStack() as stack:
            for one in request.motions:
                if (adapter := _text_adapter(one)) is not None:
                    adapter.strength = float(one.largest_weight)
                    adapter.to(next(self.parts.unet.parameters()))
                    stack.enter_context(adapter.mounted(self.parts.unet))
            yield RescaledGuidance(
                self.denoiser,
                self.options.guidance,
                self.config.guidance_rescale if rescale is None else rescale,
            )

    def decode(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """See `Base`."""
        return self.autoencoder.decode(latents, request.photo, progress)

    def facts(self) -> dict[str, Any]:
        """See `Base`."""
        changed = self.options.model_dump(exclude_defaults=True, exclude={"ending"})
        if self.options.ending is not None:
            changed["ending"] = self.options.ending.name
        weights = fingerprint(*self.parts.named().values())
        return {"weights": weights} | ({"options": changed} if changed else {})

    def notes(self, request: Request) -> list[str]:
        """See `Base`."""
        if request.num_frames == TRAINED_FRAMES:
            return []
        return [
            f"{self.name} was trained with {TRAINED_FRAMES} frames; with {request.num_frames} each frame reads the image "
            "tokens of the trained frame nearest in time"
        ]

    def _still(self, request: Request, first_latent: Tensor) -> Tensor:
        """(1, 4, F, h, w): the first frame's latent repeated, or the first and the last frame's and zeros between."""
        if self.config.given == "first":
            return first_latent.repeat_interleave(request.num_frames, dim=2)
        still = first_latent.new_zeros(*first_latent.shape[:2], request.num_frames, *first_latent.shape[3:])
        still[:, :, :1] = first_latent
        still[:, :, -1:] = first_latent if request.loop else self._ending(request)
        return still

    def _ending(self, request: Request) -> Tensor:
        from motionloom.video.picture import read_picture
        from motionloom.video.resize import resize

        assert self.options.ending is not None
        picture = resize(read_picture(self.options.ending)[None], request.width, request.height, "crop")[0]
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return self.autoencoder.encode(pixels[:, :, None])

    def _rate(self, request: Request) -> float:
        """The number the network is told: the release's default, moved towards its liveliest or calmest.

        Raises:
            ConfigError: a motion that is neither word nor text adapter, or that this base cannot do as asked.
        """
        rate = self.config.rate
        asked = [one for one in request.motions if _text_adapter(one) is None]
        for one in request.motions:
            self._check_motion(one)
        if len(asked) > 1 or len(request.motions) - len(asked) > 1:
            raise ConfigError(
                f"{self.name} takes one of the words {', '.join(WORDS)} and one text adapter at a time, got "
                f"{', '.join(one.name for one in request.motions)}",
                fix="leave one out",
            )
        if not asked:
            return rate.usual
        end = rate.lively if asked[0].name == "lively" else rate.calm
        return rate.usual + asked[0].largest_weight * (end - rate.usual)

    def _check_motion(self, one: Asked) -> None:
        if one.region is not None or isinstance(one.weight, tuple):
            raise ConfigError(
                f'{self.name} applies "{one.name}" to the whole clip, got a mask or a weight that changes',
                fix="give one number as weight and no mask",
            )
        if (adapter := _text_adapter(one)) is not None:
            adapter.check_fits(self.parts.unet, f'"{one.name}"')
        elif one.adapter is not None or one.name not in WORDS:
            raise ConfigError(
                f'{self.name} does not know the motion "{one.name}"',
                fix=f"use a prompt, one of the words {', '.join(WORDS)}, or a text adapter's file",
            )
        elif one.largest_weight > 1:
            raise ConfigError(
                f'got the weight {one.largest_weight:g} for "{one.name}", expected 0..1',
                fix="1 is the end of what it was trained with",
            )


def _text_adapter(one: Asked) -> TextAdapter | None:
    adapter: object = one.adapter
    return adapter if isinstance(adapter, TextAdapter) else None


def plain_ddim(eta: float) -> Any:
    """The 256 model's sampler: epsilon prediction on Stable Diffusion's schedule, timesteps 1, 21, ..., 981."""
    scheduler = _DDIM(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    scheduler.eta = eta
    return scheduler


# --- loading ------------------------------------------------------------------------------------------------


def load_dynamicrafter(
    source: str | os.PathLike[str], *, device: str | None = None, dtype: str | None = None, **options: Any
) -> DynamiCrafterBase:
    """The base from a folder that `convert` made, or from an official checkpoint.

    Args:
        source: the folder, or `model.ckpt`.
        device, dtype: where and how precisely to compute.
        options: see `DynamiCrafterOptions`.

    Raises:
        WeightsError: weights that are missing or damaged.
        ConfigError: an option that does not exist.
    """
    path = Path(source)
    chosen = read_options(DynamiCrafterOptions, options, path.name)
    place, precision = device_and_dtype(device, dtype, HALF)
    config, parts = read_folder(path) if path.is_dir() else load_checkpoint(path)
    for network in parts.named().values():
        nn.Module.to(network, place, precision)  # diffusers' own warns of modules it does not have
    own = path / "tokenizer"
    tokenizer: Tokenizer = ClipWords(own if own.is_dir() else _cached_vocabulary(), FETCH_VOCABULARY)
    if config.vocabulary < DynamiCrafterConfig().vocabulary:  # such a text encoder reads no CLIP vocabulary
        tokenizer = HashedWords(config.vocabulary)
    name = path.name if path.is_dir() else None
    return DynamiCrafterBase(config, parts, tokenizer, chosen, name)


def load_512(**options: Any) -> DynamiCrafterBase:
    """`dynamicrafter-512`, from the hub's cache."""
    return _load_released("dynamicrafter-512", options)


def load_1024(**options: Any) -> DynamiCrafterBase:
    """`dynamicrafter-1024`, from the hub's cache."""
    return _load_released("dynamicrafter-1024", options)


def load_256(**options: Any) -> DynamiCrafterBase:
    """`dynamicrafter-256`, from the hub's cache."""
    return _load_released("dynamicrafter-256", options)


def load_tiny(seed: int = 0, **options: Any) -> DynamiCrafterBase:
    """`tiny-dynamicrafter`: random weights from a seed, same layout, complete with encoders."""
    place, precision = device_and_dtype(options.pop("device", "cpu"), options.pop("dtype", None), HALF)
    chosen = read_options(DynamiCrafterOptions, options, TINY.name)
    parts = build_random(TINY, seed)
    for network in parts.named().values():
        nn.Module.to(network, place, precision)  # diffusers' own warns of modules it does not have
    return DynamiCrafterBase(TINY, parts, HashedWords(TINY.vocabulary), chosen)


def _load_released(name: str, options: dict[str, Any]) -> DynamiCrafterBase:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(REPOSITORIES[name], CHECKPOINT)
    if not isinstance(found, str):
        raise WeightsError(
            f"the weights of {name} are not here",
            fix=f"fetch them with `{fetch(name)}`, or give the folder that `motionloom convert` made of them",
        )
    base = load_dynamicrafter(found, **options)
    if base.config.name != name:
        raise WeightsError(f'"{found}" is {base.config.name}, expected {name}', fix="download it again")
    return base


def _cached_vocabulary() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(VOCABULARY_REPOSITORY, file) for file in VOCABULARY_FILES]
    return Path(found[0]).parent if all(isinstance(one, str) for one in found) else None  # type: ignore[arg-type]
