"""Numbers and tables as every section writes them."""

from __future__ import annotations

import math

from motionloom.reporting.markup import Html, tag
from motionloom.reporting.plots import short

MAX_LISTED = 40  # lines of a list; it says how many more there are
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


def counted(number: int, noun: str) -> str:
    """Such as "1 clip" or "2,048 clips"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def fixed(number: float, decimals: int) -> str:
    """With so many decimals, a true minus sign, and no negative zero."""
    if not math.isfinite(number) or (number and abs(number) >= 1e6):
        return short(number)
    said = f"{number:.{decimals}f}"
    return said.replace("-", "−") if float(said) else said.replace("-", "")


def caption_of(text: str) -> Html:
    """A caption that stays readable while its table scrolls sideways."""
    return tag("caption", tag("span", text))


def scrolling(table: Html, name: str) -> Html:
    """A table that scrolls on its own, by keyboard too."""
    return tag("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)
