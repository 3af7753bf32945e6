"""The base `mini`: the LaMD that ships with the package. Motions are words or adapters; the latent holds motion alone.

An adapter (adapters/map_parts.py) lies beside the generator, which is told the word nearest to its motion; what follows of
headings, speeds and painting treats it as such a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from motionloom.codecs.run import Loop, Once
from motionloom.codecs.warp_codec import WarpCodec, Where
from motionloom.conditions.asked import Asked
from motionloom.conditions.words import WORDS, find
from motionloom.denoisers.base import Base, Denoiser, Progress, Request
from motionloom.denoisers.map_generator import PHOTO_CELL, MapGenerator
from motionloom.errors import ConfigError
from motionloom.motion.grid import resize_maps
from motionloom.motion.speeds import gain, way
from motionloom.sampling.schedules import RectifiedFlow, rectified_flow
from motionloom.sampling.weave import MapWeave, scales_exactly, shares, strength_of, word_of
from motionloom.zoo import MINI

if TYPE_CHECKING:
    from motionloom.adapters.adapter import Adapter
    from motionloom.adapters.motion_weight import MotionWeight


class MiniBase(Base):
    """A motion generator and a warping codec; any photo, any size, on a CPU."""

    num_frames, fps, num_steps = 16, 8.0, 20
    words = tuple(word.name for word in WORDS)
    default_motion = "zoom-in"

    def __init__(self, codec: WarpCodec, denoiser: MapGenerator, name: str = "mini") -> None:
        self.name = name
        self.codec: WarpCodec = codec
        self.denoiser: MapGenerator = denoiser

    def check(self, request: Request) -> None:
        """See `Base`: motions are words, or adapters made for the generator."""
        for one in request.motions:
            if one.adapter is not None:
                self._check_adapter(one)
                continue
            word = WORDS[find(one.name)]
            if one.heading and word.kind != "local":
                raise ConfigError(
                    f'"{one.said}": {one.name} has a direction of its own', fix=f"leave out @{one.heading}"
                )

    def _check_adapter(self, one: Asked) -> None:
        from motionloom.adapters.layout import check_fits, layout_of

        if not hasattr(one.adapter, "layout") or one.adapter is None:
            raise ConfigError(
                f'{self.name} moves by words and MIVA adapters, "{one.name}" is another kind',
                fix="see what it is with `motionloom inspect`",
            )
        check_fits(one.adapter.layout, layout_of(self.denoiser), f'"{one.name}"')
        if one.heading:
            raise ConfigError(f'"{one.said}": only words take a direction', fix=f"leave out @{one.heading}")
        if word_of(one).kind != "local":
            raise ConfigError(
                f'the adapter "{one.name}" is carried by the word "{word_of(one).name}", expected a local motion',
                fix="train it again",
            )

    def notes(self, request: Request) -> list[str]:
        """See `Base`: adapters that were trained beside other weights."""
        from motionloom.denoisers.pretrained import fingerprint

        trained = {one.name: one.adapter.facts.get("base_weights") for one in request.motions if one.adapter}
        own = fingerprint(self.denoiser) if any(trained.values()) else None
        return [
            f'"{name}" was trained beside other weights of {self.name}; it moves as taught only beside those'
            for name, weights in trained.items()
            if weights not in (None, own)
        ]

    def schedule(self, request: Request | None = None) -> RectifiedFlow:
        """See `Base`."""
        return rectified_flow()

    def condition(self, request: Request, first_latent: Tensor | None, generator: torch.Generator) -> Any:
        """See `Base`."""
        return self.told(request.photo, generator)

    @contextmanager
    def adapted(self, request: Request) -> Iterator[Denoiser]:
        """See `Base`: adapters are mounted, each in its share of the picture."""
        pairs = self.weighted(request.motions, request.height, request.width)
        with ExitStack() as stack:
            if pairs:
                from motionloom.adapters.mount import mounted

                stack.enter_context(mounted(self.denoiser, pairs))
            yield self.woven(request.motions)

    def weighted(
        self, asked: Sequence[Asked], height_px: int, width_px: int
    ) -> list[tuple[Adapter, MotionWeight]]:
        """The adapters among the motions with what they are mounted with: of fixed weight at their usual strength, for the
        latent is scaled exactly afterwards; those of weight 0 not at all.
        """
        from motionloom.adapters.motion_weight import MotionWeight

        h, w = self.codec.latent_shape(self.num_frames, height_px, width_px)[1:]
        return [
            (
                one.adapter,
                MotionWeight(over_steps=one.weight if isinstance(one.weight, tuple) else None, region=region),
            )
            for one, region in zip(asked, shares(asked, h, w), strict=True)
            if one.adapter is not None and one.largest_weight > 0
        ]

    def decode(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """See `Base`; with `overscan` the frames are the middle that never looks beyond the photo."""
        latents = self.as_asked(latents, request.motions)
        where = self.where(request.motions, request.height, request.width)
        run = Loop() if request.loop else Once()
        frames = self.codec.decode(latents, request.photo, request.num_frames, where, run, progress)
        if request.overscan:
            view = self.codec.safe_view(latents, request.photo, request.num_frames, where, run)
            top, left, height, width = view
            frames = frames[..., top : top + height, left : left + width]
        return frames

    def motion_of(self, frames: Tensor, photo: Tensor) -> Tensor:
        """See `transfer.MotionReader`: the flow of the clip as a linear latent."""
        latents = self.codec.encode(frames)
        _, h, w = self.codec.latent_shape(self.num_frames, *photo.shape[-2:])
        return resize_maps(latents, h, w)

    def draw_motion(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """See `transfer.MotionReader`; a latent of zero is stillness, and where nothing moves nothing is painted."""
        (asked,) = request.motions
        latents = latents * asked.weight_at(1.0)
        region = asked.region_over(request.height, request.width)
        active = self.codec.motion.activity(latents)[:, None]
        moving = resize_maps(active, request.height, request.width, "bilinear")[0, 0]
        where = Where(torch.zeros(0, *region.shape), region, region, region * moving)
        run = Loop() if request.loop else Once()
        return self.codec.decode(latents, request.photo, request.num_frames, where, run, progress)

    def told(self, photo: Tensor, generator: torch.Generator | None = None) -> Any:
        """What the denoiser is told of a photo (1, 3, H, W), -1..1; `generator` draws the headings."""
        h, w = self.codec.latent_shape(self.num_frames, *photo.shape[-2:])[1:]
        small = resize_maps(photo, PHOTO_CELL * h, PHOTO_CELL * w)
        return self.denoiser.tell(small, h, w, generator=generator)

    def woven(self, asked: Sequence[Asked]) -> Denoiser:
        """The denoiser that moves as asked."""
        return MapWeave(self.denoiser, tuple(asked))

    def as_asked(self, latents: Tensor, asked: Sequence[Asked]) -> Tensor:
        """Motion latents (B, d, h, w) whose local flow goes where asked, as strongly as asked and, where words learned from
        clips act, no livelier than in those clips.
        """
        h, w = latents.shape[-2:]
        for one in asked:
            if one.direction is not None:
                latents = self.codec.motion.with_local_toward(latents, one.direction, one.region_over(h, w))
        factors, share = torch.zeros(len(latents), h, w), torch.zeros(h, w)
        ways = way(self.codec.motion.decode(latents).local)
        for one, region in zip(asked, shares(asked, h, w), strict=True):
            if word_of(one).kind != "local" or one.weight_at(1.0) == 0:
                continue
            scaled, strength = scales_exactly(one), strength_of(one, asked, h, w)
            known = self.denoiser.speeds[find(one.name)] if one.adapter is None else one.adapter.speeds
            generated, real = known.float()
            factor = (
                gain(ways if scaled else ways / strength, generated, real) if real.any() else torch.ones(1)
            )
            factors += region * factor * (strength if scaled else 1)
            share += region
        factors = (factors + (1 - share).clamp_min(0)) / share.clamp_min(1)
        return self.codec.motion.with_local_scaled(latents, factors)

    def where(self, asked: Sequence[Asked], height: int, width: int) -> Where:
        """Where the codec may draw each kind of motion, at the photo's size."""
        kinds = [word_of(one).kind for one in asked]
        cameras = [
            one.region
            for one, kind in zip(asked, kinds, strict=True)
            if kind == "rigid" and one.largest_weight > 0
        ]
        regions = list(
            {None if r is None else r.tobytes(): r for r in cameras}.values()
        )  # cameras of one region move as one
        everywhere = torch.ones(height, width)
        rigid = [everywhere if r is None else torch.from_numpy(r) for r in regions]
        local, light, paint = torch.zeros(3, height, width)
        for one in asked:
            word, region = word_of(one), one.region_over(height, width)
            if word.kind == "rigid" or one.largest_weight == 0:
                continue
            light = light.maximum(region)
            local = local.maximum(region * (word.kind == "local"))
            paint = paint.maximum(region * word.painted)
        return Where(torch.stack(rigid) if rigid else torch.zeros(0, height, width), local, light, paint)


def load_mini(folder: Path = MINI) -> MiniBase:
    """The shipped model, or another one of its kind: a folder with codec.safetensors and generator.safetensors."""
    from motionloom.zoo import load_codec, load_generator

    return MiniBase(
        load_codec(folder / "codec.safetensors"), load_generator(folder / "generator.safetensors")
    )
