"""CATER-GEN's captions: writing them, reading them, refusing words they do not have.

One sentence a mover (MAGE, Hu et al. 2022):

    <subject> is sliding to <place>.          <subject> is picked up and placed to <place>.
    <subject> is rotating.                    <subject> is picked up and containing <object>.

Explicit captions name size, colour, material and shape, and a place on the grid, "(2, -1)". Ambiguous ones name the shape
after none to three of the other words in any order, and a quadrant, "the first quadrant". Captions of v1 name shapes only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from motionloom.errors import InputError

Action = Literal["slide", "rotate", "pick-place", "contain"]
Mode = Literal["explicit", "ambiguous"]
Place = int | tuple[int, int]
"""A quadrant, 1 to 4, or a cell of the grid, (x, y), each in -3..-1 or 1..3."""

SHAPES = ("cone", "snitch", "sphere", "cylinder", "cube")
SIZES = ("small", "medium", "large")
MATERIALS = ("metal", "rubber")
COLOURS = ("gold", "gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
ATTRIBUTES = frozenset((*SHAPES, *SIZES, *MATERIALS, *COLOURS))
QUADRANTS = ("first", "second", "third", "fourth")
_VERBS = ("is", "sliding", "rotating", "picked", "placed", "containing", "up", "and", "to", "the", "quadrant")
_SPARE = ("while", "contained", "still")  # in the official vocabulary, in no caption
_MARKS = ("(", ")", ",", ".", "1", "2", "3", "-1", "-2", "-3")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]")
VOCABULARY = (*SPECIAL, *_VERBS, *SHAPES, *SIZES, *MATERIALS, *COLOURS, *QUADRANTS, *_SPARE, *_MARKS)
"""The 50 tokens of v2; the order is ours."""

_TOKEN = re.compile(r"-?\d+|[^\W\d_]+|[^\w\s]")


@dataclass(frozen=True)
class Statement:
    """One sentence, parsed: who, does what, where to or around what."""

    subject: tuple[str, ...]
    action: Action
    place: Place | None = None
    contained: tuple[str, ...] = ()


# Writing


def quadrant_of(x: float, y: float) -> int:
    """1 to 4, counter-clockwise from x >= 0, y >= 0."""
    if y >= 0:
        return 1 if x >= 0 else 2
    return 3 if x < 0 else 4


def cell_of(x: float, y: float) -> tuple[int, int]:
    """The place on the grid without zero: (0, 1] is 1, (-1, 0] is -1."""
    return _cell(x), _cell(y)


def _cell(value: float) -> int:
    return math.ceil(value - 1 if -3 < value <= 0 else value)


def describe_subject(
    size: str, colour: str, material: str, shape: str, mode: Mode, rng: np.random.Generator
) -> tuple[str, ...]:
    """The words of a block: all four, or its shape after up to three others in random order."""
    words = [size, colour, material]
    if mode == "ambiguous":
        words = [words[i] for i in rng.permutation(3)[: int(rng.integers(0, 4))]]
    return (*words, shape)


def write_caption(statements: Iterable[Statement]) -> str:
    """The caption of some statements; each sentence begins with a blank, as in the official files."""
    return "".join(f" {_sentence(one)}." for one in statements)


def _sentence(one: Statement) -> str:
    subject = "the " + " ".join(one.subject)
    if one.action == "rotate":
        return f"{subject} is rotating"
    if one.action == "contain":
        return f"{subject} is picked up and containing the {' '.join(one.contained)}"
    assert one.place is not None
    verb = "sliding" if one.action == "slide" else "picked up and placed"
    return f"{subject} is {verb} to {_place_words(one.place)}"


def _place_words(place: Place) -> str:
    if isinstance(place, tuple):
        return f"({place[0]}, {place[1]})"
    return f"the {QUADRANTS[place - 1]} quadrant"


# Reading


def tokens(caption: str) -> list[str]:
    """Words, numbers and marks of a caption, in lower case."""
    return _TOKEN.findall(caption.lower())


def unknown_words(caption: str) -> list[str]:
    """Tokens that no caption of CATER-GEN has, in their order."""
    known = set(VOCABULARY)
    return list(dict.fromkeys(token for token in tokens(caption) if token not in known))


def parse_caption(caption: str) -> list[Statement]:
    """The statements of a caption, explicit or ambiguous. Raises InputError for anything outside the grammar."""
    unknown = unknown_words(caption)
    if unknown:
        raise InputError(
            f'caption "{caption.strip()}" has the unknown word "{unknown[0]}"', fix="correct the caption"
        )
    sentences = [part for part in (piece.strip() for piece in caption.split(".")) if part]
    if not sentences:
        raise InputError("the caption is empty", fix="write one sentence for each thing that moves")
    return [_parse_sentence(one) for one in sentences]


_SENTENCE = re.compile(
    r"the (?P<subject>[a-z ]+?) is (?:(?P<rotating>rotating)|(?P<sliding>sliding) to (?P<to>.+)"
    r"|picked up and placed to (?P<placed>.+)|picked up and containing the (?P<contained>[a-z ]+))"
)


def _parse_sentence(sentence: str) -> Statement:
    match = _SENTENCE.fullmatch(" ".join(sentence.lower().split()))
    if match is None:
        raise _ungrammatical(sentence)
    subject = _attributes(match["subject"], sentence)
    if match["rotating"]:
        return Statement(subject, "rotate")
    if match["contained"]:
        return Statement(subject, "contain", contained=_attributes(match["contained"], sentence))
    if match["sliding"]:
        return Statement(subject, "slide", _parse_place(match["to"], sentence))
    return Statement(subject, "pick-place", _parse_place(match["placed"], sentence))


def _attributes(words: str, sentence: str) -> tuple[str, ...]:
    found = tuple(words.split())
    if not found or not ATTRIBUTES.issuperset(found) or found[-1] not in SHAPES:
        raise _ungrammatical(sentence)
    return found


def _parse_place(words: str, sentence: str) -> Place:
    quadrant = re.fullmatch(r"the (first|second|third|fourth) quadrant", words)
    if quadrant:
        return QUADRANTS.index(quadrant[1]) + 1
    cell = re.fullmatch(r"\( ?(-?[123]) ?, ?(-?[123]) ?\)", words)
    if cell:
        return int(cell[1]), int(cell[2])
    raise _ungrammatical(sentence)


def _ungrammatical(sentence: str) -> InputError:
    return InputError(
        f'caption sentence "{sentence.strip()}" is not in CATER-GEN\'s grammar',
        fix='write, for example, "the small red cone is sliding to the first quadrant."',
    )
