"""The bases: models that animate, each with its codec, denoiser, conditions and sampling defaults.

A base is one row of BASES and one function that builds it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motionloom.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from motionloom.codecs.warp_codec import WarpCodec, Where
    from motionloom.conditions.asked import Asked
    from motionloom.denoisers.base import Denoiser
    from motionloom.denoisers.map_generator import MapGenerator


@dataclass(frozen=True)
class Base:
    """A model that animates.

    Attributes:
        name: its key in BASES.
        codec: pixels <=> latents.
        denoiser: the network.
        schedule: () => a diffusers scheduler.
        num_steps, num_frames, fps: defaults.
        words: the motions it knows.
        default_motion: what it does when nothing is asked.
    """

    name: str
    codec: WarpCodec
    denoiser: MapGenerator
    schedule: Callable[[], Any]
    num_steps: int
    num_frames: int
    fps: float
    words: tuple[str, ...]
    default_motion: str

    def told(self, photo: Tensor) -> Any:
        """What the denoiser is told of a photo (1, 3, H, W), -1..1."""
        from motionloom.denoisers.map_generator import PHOTO_CELL
        from motionloom.motion.grid import resize_maps

        h, w = self.codec.latent_shape(self.num_frames, *photo.shape[-2:])[1:]
        return self.denoiser.tell(resize_maps(photo, PHOTO_CELL * h, PHOTO_CELL * w), h, w)

    def woven(self, asked: Sequence[Asked]) -> Denoiser:
        """The denoiser that moves as asked."""
        from motionloom.sampling.weave import MapWeave

        return MapWeave(self.denoiser, tuple(asked))

    def check_word(self, name: str) -> None:
        """Raises ConfigError when the base does not know a motion."""
        from motionloom.conditions.words import find

        find(name)

    def where(self, asked: Sequence[Asked], height: int, width: int) -> Where:
        """Where the codec may draw each kind of motion, at the photo's size."""
        import torch

        from motionloom.codecs.warp_codec import Where
        from motionloom.conditions.words import WORDS, find

        kinds = [WORDS[find(one.name)].kind for one in asked]
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
            word, region = WORDS[find(one.name)], one.region_over(height, width)
            if word.kind == "rigid" or one.largest_weight == 0:
                continue
            light = light.maximum(region)
            local = local.maximum(region * (word.kind == "local"))
            paint = paint.maximum(region * word.painted)
        return Where(torch.stack(rigid) if rigid else torch.zeros(0, height, width), local, light, paint)


def load_mini() -> Base:
    """The shipped model."""
    from motionloom.conditions.words import WORDS
    from motionloom.sampling.schedules import rectified_flow
    from motionloom.zoo import MINI, load_codec, load_generator

    return Base(
        name="mini",
        codec=load_codec(MINI / "codec.safetensors"),
        denoiser=load_generator(MINI / "generator.safetensors"),
        schedule=rectified_flow,
        num_steps=20,
        num_frames=16,
        fps=8.0,
        words=tuple(word.name for word in WORDS),
        default_motion="zoom-in",
    )


#: name -> (how to load it, what it is)
BASES: dict[str, tuple[Callable[[], Base], str]] = {
    "mini": (load_mini, "a small LaMD shipped with the package: any photo, any size, on a CPU, no download"),
}


def load_base(name: str) -> Base:
    """A base, ready to animate.

    Raises:
        ConfigError: there is no base of this name.
        WeightsError: its weights are missing or damaged.
    """
    if name not in BASES:
        near = difflib.get_close_matches(name, BASES, 1, 0.5)
        raise ConfigError(
            f'there is no base "{name}"',
            fix=f'did you mean "{near[0]}"?' if near else f"use one of {', '.join(BASES)}",
        )
    return BASES[name][0]()


def describe_bases() -> list[tuple[str, str, str]]:
    """(name, what it is, "shipped" or what is missing) of every base."""
    from motionloom.zoo import MINI

    there = all((MINI / file).is_file() for file in ("codec.safetensors", "generator.safetensors"))
    return [(name, line, "shipped" if there else "weights missing") for name, (_, line) in BASES.items()]
