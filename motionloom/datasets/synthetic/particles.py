"""What appears that no warp of the photo can show: rain, snow, smoke, fire, fireworks. Painted, not warped."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from motionloom.datasets.synthetic.motion import Motion, Picture, Still

Layer = npt.NDArray[np.float32]


class Falling(Still):
    """Rain (streaks) or snow (dots that swing) falling through the frame; drops leave below and return above."""

    truth = False

    def __init__(self, word: str, rng: np.random.Generator, amplitude: float, streaks: bool) -> None:
        self.word, self.streaks = word, streaks
        count = int((180 if streaks else 120) * amplitude)
        self.start = rng.uniform(0, 1, (count, 2))
        self.near = rng.uniform(0.3, 1.0, count)
        self.slant = rng.normal(0, 0.12)
        self.speed = (3.5 if streaks else 0.7) * amplitude**0.5
        self.phase = rng.uniform(0, 2 * math.pi, count)

    def paint(self, frame: Picture, tau: float) -> Picture:
        if tau == 0:
            return frame
        height, width = frame.shape[:2]
        layer = Image.new("L", (width, height))
        draw = ImageDraw.Draw(layer)
        fallen = self.speed * tau * self.near
        x = (self.start[:, 0] + self.slant * fallen) * width
        if not self.streaks:
            x = x + 0.01 * width * np.sin(self.phase + 6 * tau)
        y = ((self.start[:, 1] + fallen) % 1.1 - 0.05) * height
        for px, py, near in zip(x % width, y, self.near, strict=True):
            shade = int(90 + 110 * near)
            if self.streaks:
                length = 0.05 * near * height
                ends = [(px, py), (px + self.slant * length, py + length)]
                draw.line(ends, fill=shade, width=max(1, round(near * width / 256)))
            else:
                radius = max(0.6, near * width / 120)
                draw.ellipse([px - radius, py - radius, px + radius, py + radius], fill=shade)
        cover = np.asarray(layer.filter(ImageFilter.GaussianBlur(width / 400)), np.float32)[..., None] / 255
        cover *= min(1.0, tau * 6) * (0.55 if self.streaks else 0.9)
        return _blend(frame, np.array([235.0, 238.0, 245.0], np.float32), cover)


class Plume(Still):
    """Smoke or fire: soft puffs that rise from a source, grow and fade."""

    truth = False

    def __init__(self, word: str, rng: np.random.Generator, amplitude: float, burning: bool) -> None:
        self.word, self.burning = word, burning
        self.source = (rng.uniform(0.3, 0.7), rng.uniform(0.65, 0.95))
        count = int((28 if burning else 18) * amplitude) + 1
        self.birth = np.sort(rng.uniform(-0.2, 1.0, count))
        self.drift = rng.normal(0, 0.06, count)
        self.size = rng.uniform(0.03, 0.06, count) * (0.8 if burning else 1.3)
        self.life = 0.35 if burning else 0.9
        self.rise = 0.45 if burning else 0.5

    def paint(self, frame: Picture, tau: float) -> Picture:
        if tau == 0:
            return frame
        height, width = frame.shape[:2]
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        heat = np.zeros((height, width), np.float32)
        for birth, drift, size in zip(self.birth, self.drift, self.size, strict=True):
            age = (tau - max(birth, 0.0)) / self.life
            if not 0 < age < 1:
                continue
            x = (self.source[0] + drift * (0.3 + age)) * width
            y = (self.source[1] - self.rise * age * self.life) * height
            radius = size * (0.6 + (0.2 if self.burning else 1.4) * age) * width
            heat += math.sin(math.pi * age) * np.exp(
                -((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)
            )
        if self.burning:
            glow = np.stack([heat * 1.2, heat**1.5 * 0.75, heat**3 * 0.35], -1)
            lit: Picture = np.clip(frame + 255 * glow, 0, 255).astype(np.uint8)
            return lit
        return _blend(
            frame, np.array([190.0, 190.0, 195.0], np.float32), np.clip(0.5 * heat, 0, 0.85)[..., None]
        )


class Bursts(Still):
    """Fireworks: shells that open into falling sparks."""

    truth = False

    def __init__(self, word: str, rng: np.random.Generator, amplitude: float) -> None:
        self.word = word
        self.shells = [
            (
                rng.uniform(0.2, 0.8, 2) * [1, 0.7],
                rng.uniform(0.02, 0.6),
                rng.uniform(0.6, 1.0, 3),
                rng.uniform(0.15, 0.3),
            )
            for _ in range(max(1, round(2 * amplitude)))
        ]
        self.angles = rng.uniform(0, 2 * math.pi, 60)
        self.reach = rng.uniform(0.5, 1.0, 60)

    def paint(self, frame: Picture, tau: float) -> Picture:
        height, width = frame.shape[:2]
        glow: Layer = np.zeros(frame.shape, np.float32)
        for centre, birth, colour, radius in self.shells:
            age = (tau - birth) / 0.45
            if not 0 < age < 1:
                continue
            layer = Image.new("L", (width, height))
            draw = ImageDraw.Draw(layer)
            for angle, reach in zip(self.angles, self.reach, strict=True):
                ends = []
                for moment in (max(0.0, age - 0.18), age):
                    out = radius * reach * (1 - (1 - moment) ** 2)
                    ends.append(
                        (
                            (centre[0] + out * math.cos(angle)) * width,
                            (centre[1] + out * math.sin(angle) + 0.08 * moment**2) * height,
                        )
                    )
                draw.line(ends, fill=int(255 * (1 - age) ** 0.7), width=max(1, width // 200))
            glow += (
                np.asarray(layer.filter(ImageFilter.GaussianBlur(width / 300)), np.float32)[..., None]
                * colour
            )
        return np.clip(frame + 1.4 * glow, 0, 255).astype(np.uint8)


def _blend(frame: Picture, colour: npt.NDArray[np.float32], cover: npt.NDArray[np.floating]) -> Picture:
    mixed: Picture = np.clip(np.rint(frame * (1 - cover) + colour * cover), 0, 255).astype(np.uint8)
    return mixed


def sample_rain(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Falling(word, rng, amplitude, streaks=True)


def sample_snow(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Falling(word, rng, amplitude, streaks=False)


def sample_smoke(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Plume(word, rng, amplitude, burning=False)


def sample_flames(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Plume(word, rng, amplitude, burning=True)


def sample_fireworks(word: str, rng: np.random.Generator, amplitude: float) -> Motion:
    return Bursts(word, rng, amplitude)
