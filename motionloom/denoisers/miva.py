"""What the bases of MIVA share (arXiv 2512.20000, inference): how a photo becomes a clip under motion adapters.

photo -> z_0 -> shared noise, low frequencies of z_0 -> denoise frames 1.. beside the clean z_0 -> AdaIN -> decode
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from motionloom.codecs.image_autoencoder import ImageAutoencoder
from motionloom.codecs.wan_autoencoder import WanAutoencoder
from motionloom.denoisers.base import Base, Denoiser, Progress, Request
from motionloom.denoisers.pretrained import fingerprint
from motionloom.denoisers.text_free import TextFreeNetwork
from motionloom.errors import ConfigError
from motionloom.sampling.first_frame import HeldFrames, adain
from motionloom.start_noise.dct import KEPT_SHARE, START_TIMESTEP, DCTStart
from motionloom.start_noise.shared import SharedNoise

if TYPE_CHECKING:
    from motionloom.adapters.adapter import Adapter
    from motionloom.adapters.context import MotionContext
    from motionloom.adapters.motion_weight import MotionWeight
    from motionloom.conditions.asked import Asked
    from motionloom.sampling.masked import SubjectMasks


class MivaOptions(BaseModel):
    """How sampling starts and ends; each adapter may want its own.

    Attributes:
        shared_noise: rho, the part of the noise that all frames share. LAMP takes 0.2. Rain, which suffers from
            noise anchored to the photo, wants less.
        dct_share: kept of each spatial axis in the start noise's low band; 0 switches it off.
        start_timestep: the noise level at which the low band is taken from the photo, 0..999.
        posterior: frame 0 is a "sample" of the photo's posterior or its "mean".
        adain: give frames 1.. the statistics of frame 0 after the last step.
        mask_decode: predicted masks are read through the "codec", or by a "linear" map fitted to the given mask,
            which costs nothing (ours; see `proxy_mask.fitted_pixels`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    shared_noise: float = Field(0.05, ge=0, le=1)
    dct_share: float = Field(KEPT_SHARE, ge=0, le=1)
    start_timestep: int = Field(START_TIMESTEP, ge=0, le=999)
    posterior: Literal["sample", "mean"] = "sample"
    adain: bool = True
    mask_decode: Literal["codec", "linear"] = "codec"


class MivaBase(Base):
    """A diffusers video network that moves photos through adapters; see the top of the file.

    Args:
        name: what it is called.
        denoiser: the network, without text.
        codec: of its latents.
        sizes_px: the (height, width) it was trained at, and what both sides must be multiples of.
        options: see `MivaOptions`.
        given: the other options of `load_base` that made it.
    """

    num_steps = 50
    group_norm: Literal["per_frame", "joint"] = "per_frame"  # statistics of the network's GroupNorms

    def __init__(
        self,
        name: str,
        denoiser: TextFreeNetwork,
        codec: ImageAutoencoder | WanAutoencoder,
        sizes_px: tuple[tuple[int, int], int],
        options: MivaOptions,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.denoiser: TextFreeNetwork = denoiser
        self.codec: ImageAutoencoder | WanAutoencoder = codec
        self.native_size_px, self.size_multiple_px = sizes_px
        self.options = options
        self._given = dict(given or {})

    @abstractmethod
    def levels(self, request: Request) -> tuple[float, float]:
        """(signal, noise) at the start timestep: y = signal z_0 + noise eps."""

    @abstractmethod
    def scheduler(self) -> Any:
        """A fresh diffusers scheduler."""

    def check(self, request: Request) -> None:
        """See `Base`: the motions can be made, and nothing is asked that only `mini` can."""
        self.check_motions(request)
        for option, wanted in (("loop", request.loop), ("overscan", request.overscan)):
            if wanted:
                raise ConfigError(f'{self.name} has no "{option}"', fix="leave it out, or take --base mini")

    def check_motions(self, request: Request) -> None:
        """Raises ConfigError unless there is a motion and each comes as an adapter."""
        if not request.motions:
            raise ConfigError(
                f"{self.name} moves a photo through adapters alone, and no motion was given",
                fix="give an adapter file: --motion waterfall.safetensors",
            )
        for one in request.motions:
            if not hasattr(one.adapter, "layout"):
                raise ConfigError(
                    f'{self.name} moves by MIVA adapters, "{one.name}" is another kind',
                    fix="see what it is with `motionloom inspect`",
                )
            if _is_masked(one) and one.region is None:
                raise ConfigError(
                    f'"{one.name}" is a masked adapter, and its subject\'s mask was not given',
                    fix="give --mask FILE, white where its subject is in the photo",
                )

    def encode(self, request: Request, generator: torch.Generator) -> Tensor:
        """See `Base`: (1, C, 1, h, w)."""
        drawn_by = generator if self.options.posterior == "sample" else None
        return self.codec.encode(request.photo[:, :, None], drawn_by)

    def start_noise(self, request: Request) -> DCTStart:
        """See `Base`: shared noise whose low frequencies are the photo's."""
        signal, noise = self.levels(request)
        return DCTStart(signal, noise, self.options.dct_share, SharedNoise(self.options.shared_noise))

    def schedule(self, request: Request) -> HeldFrames:
        """See `Base`: frame 0 is never stepped."""
        return HeldFrames(self.scheduler())

    @contextmanager
    def adapted(self, request: Request) -> Iterator[Denoiser]:
        """See `Base`: the adapters of all motions side by side, in one pass."""
        from motionloom.adapters.context import context_of
        from motionloom.adapters.mount import mounted
        from motionloom.sampling.masked import MaskedDenoiser

        network = self.denoiser.network
        pairs = [(_beside(network, one.adapter), _weight(one)) for one in request.motions]
        masked = [one for one in request.motions if _is_masked(one)]
        with mounted(network, pairs, group_norm=self.group_norm):
            context, steps = context_of(network), request.num_steps
            if masked:
                subjects = self._subjects(request, masked)
                yield MaskedDenoiser(self.denoiser, context, subjects, self.scheduler(), steps)
            else:
                yield Paced(self.denoiser, context, steps)

    def _subjects(self, request: Request, masked: list[Asked]) -> SubjectMasks:
        """The masks of masked adapters: encoded as pictures, started and, unless linearly, decoded as the video is."""
        from motionloom.adapters.proxy_mask import fitted_pixels
        from motionloom.sampling.masked import SubjectMasks

        regions = [torch.from_numpy(one.region) for one in masked if one.region is not None]
        pictures = [(2 * region - 1).expand(1, 3, -1, -1) for region in regions]
        latents = [self.codec.encode(picture[:, :, None]) for picture in pictures]
        decode = self.codec.decode if self.options.mask_decode == "codec" else fitted_pixels
        return SubjectMasks(pictures, latents, self.start_noise(request), decode)

    def decode(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """See `Base`."""
        matched = adain(latents) if self.options.adain else latents
        return self.codec.decode(matched, request.photo, progress)

    def facts(self) -> dict[str, Any]:
        """See `Base`."""
        changed = self._given | self.options.model_dump(exclude_defaults=True)
        facts: dict[str, Any] = {"weights": fingerprint(self.denoiser.network, self.codec.network)}
        return facts | ({"options": changed} if changed else {})


class Paced:
    """A `Denoiser` that tells the adapters mounted on it how much of the denoising is done, one call a step."""

    def __init__(self, denoiser: TextFreeNetwork, context: MotionContext, num_steps: int) -> None:
        self.denoiser = denoiser
        self.prediction_type = denoiser.prediction_type
        self._context = context
        self._progress = iter(torch.linspace(0, 1, num_steps).tolist())

    def __call__(self, latents: Tensor, timestep: Tensor, condition: None = None) -> Tensor:
        """See `Denoiser`."""
        self._context.at(next(self._progress, 1.0))
        return self.denoiser(latents, timestep, condition)


def _is_masked(one: Asked) -> bool:
    """Whether its adapter denoises the subject's mask beside the video; then its region is that mask, in the photo."""
    return one.adapter is not None and one.adapter.masked


def _weight(one: Asked) -> MotionWeight:
    """A motion's weight, curve over the steps and region, as one."""
    from motionloom.adapters.motion_weight import MotionWeight

    region = None if one.region is None or _is_masked(one) else torch.from_numpy(one.region)
    if isinstance(one.weight, tuple):
        return MotionWeight(over_steps=one.weight, region=region)
    return MotionWeight(one.weight, region=region)


def _beside(network: Any, adapter: Adapter | None) -> Adapter:
    """The adapter where the network is and as precise; a copy if that is elsewhere."""
    assert adapter is not None, "check() lets no word through"
    own = next(adapter.parameters())
    if (own.device, own.dtype) == (network.device, network.dtype):
        return adapter
    return copy.deepcopy(adapter).to(network.device, network.dtype)
