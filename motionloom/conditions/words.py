"""The motion words of the small model. No torch here: listing them is instant."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from motionloom.errors import ConfigError


@dataclass(frozen=True)
class Word:
    """A motion word of the small model.

    Attributes:
        name: what a user types.
        kind: "rigid" (a camera: straight lines stay straight), "local" (things move by themselves) or "light".
        line: what it does, in one line.
        learned: from real clips, rather than from synthetic motion.
        painted: things appear and change colour, so the decoder's network acts; elsewhere warping alone
            reconstructs held-out clips better.
    """

    name: str
    kind: str
    line: str
    learned: bool = False
    painted: bool = False


WORDS = (
    Word("pan-left", "rigid", "the camera turns left, the scene moves right"),
    Word("pan-right", "rigid", "the camera turns right, the scene moves left"),
    Word("pan-up", "rigid", "the camera tilts up, the scene moves down"),
    Word("pan-down", "rigid", "the camera tilts down, the scene moves up"),
    Word("zoom-in", "rigid", "the scene grows about the middle"),
    Word("zoom-out", "rigid", "the scene shrinks about the middle"),
    Word("rotate-left", "rigid", "the picture turns counter-clockwise"),
    Word("rotate-right", "rigid", "the picture turns clockwise"),
    Word("dolly-in", "local", "the camera moves in: near things grow faster than far ones"),
    Word("sky-drift", "local", "a layer drifts sideways and slowly changes shape"),
    Word("flowing-water", "local", "a layer streams downhill"),
    Word("waves", "local", "waves travel through"),
    Word("sway", "local", "leaves and grass swing in the wind"),
    Word("flicker", "light", "the light flickers"),
    Word("clouds", "local", "clouds travel and change as in a time-lapse", True),
    Word("waterfall", "local", "water falls and sprays", True, True),
    Word("sea", "local", "the sea heaves and breaks", True, True),
    Word("fire", "local", "flames lick and glow", True, True),
    Word("traffic", "local", "cars drive along the road", True, True),
)
INDEX = {word.name: index for index, word in enumerate(WORDS)}


def find(name: str) -> int:
    """Channel of a motion word.

    Raises:
        ConfigError: there is no such word; the nearest one is suggested.
    """
    if name not in INDEX:
        near = difflib.get_close_matches(name, INDEX, 1, 0.5)
        fix = f'did you mean "{near[0]}"?' if near else "run `motionloom motions` for the list"
        raise ConfigError(f'"mini" knows no motion "{name}"', fix=fix)
    return INDEX[name]
