"""Synthetic motion: unlimited clips with known motion from any folder of photos (also MIVA's camera data, paper D.2).

    motion.py     the contract, regions
    camera.py     pan x4, zoom x2, rotate x2, dolly
    fluid.py      sky drift, flowing water, waves, sway
    light.py      flicker
    particles.py  rain, snow, smoke, flames, fireworks
    render.py     photo + motions => clip, true flow
    write.py      folder of photos => folder of clips

A new motion is one class and one line of MOTIONS.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from motionloom.datasets.synthetic import camera, fluid, light, particles
from motionloom.datasets.synthetic.motion import Motion, Region, random_region
from motionloom.datasets.synthetic.render import SyntheticClip, render
from motionloom.datasets.synthetic.write import write_clips

Sampler = Callable[[str, np.random.Generator, float], Motion]

#: word -> (how to draw one, what it looks like)
MOTIONS: dict[str, tuple[Sampler, str]] = {
    "pan-left": (camera.sample_camera, "the camera turns left, the scene moves right"),
    "pan-right": (camera.sample_camera, "the camera turns right, the scene moves left"),
    "pan-up": (camera.sample_camera, "the camera tilts up, the scene moves down"),
    "pan-down": (camera.sample_camera, "the camera tilts down, the scene moves up"),
    "zoom-in": (camera.sample_camera, "the scene grows about the middle"),
    "zoom-out": (camera.sample_camera, "the scene shrinks about the middle"),
    "rotate-left": (camera.sample_camera, "the picture turns counter-clockwise"),
    "rotate-right": (camera.sample_camera, "the picture turns clockwise"),
    "dolly-in": (camera.sample_dolly, "the camera moves in: near things grow faster than far ones"),
    "sky-drift": (fluid.sample_sky_drift, "a layer drifts sideways and slowly changes shape"),
    "flowing-water": (fluid.sample_flowing_water, "a layer streams downhill"),
    "waves": (fluid.sample_waves, "waves travel through"),
    "sway": (fluid.sample_sway, "leaves and grass swing in the wind"),
    "flicker": (light.sample_flicker, "the light flickers"),
    "rain": (particles.sample_rain, "rain falls"),
    "snow": (particles.sample_snow, "snow falls"),
    "smoke": (particles.sample_smoke, "smoke rises"),
    "flames": (particles.sample_flames, "flames rise"),
    "fireworks": (particles.sample_fireworks, "fireworks open"),
}


def draw_motion(word: str, rng: np.random.Generator, amplitude: float = 1.0) -> Motion:
    """A motion of a word with its random choices made; `word` is a key of MOTIONS."""
    return MOTIONS[word][0](word, rng, amplitude)


__all__ = [
    "MOTIONS",
    "Motion",
    "Region",
    "SyntheticClip",
    "draw_motion",
    "random_region",
    "render",
    "write_clips",
]
