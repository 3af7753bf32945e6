"""HTML and SVG that cannot forget to escape.

    tag("p", "5 < 6", class_="note")  ->  <p class="note">5 &lt; 6</p>

Every text that is not `Html` already is escaped: file names, prompts and reasons come from strangers.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"meta", "input", "br", "hr", "img"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """One element. None and False leave an attribute out, True gives it no value; `class_` is `class`, `a_b` is `a-b`."""
    opened = "".join([name, *(_attribute(key, value) for key, value in attributes.items())])
    if name in VOID:
        return Html(f"<{opened}>")
    return Html(f"<{opened}>{join(content)}</{name}>")


def join(content: Iterable[object]) -> Html:
    """Elements and texts, one after the other."""
    return Html("".join(_rendered(item) for item in content))


def _rendered(item: object) -> str:
    if item is None:
        return ""
    if isinstance(item, Html):
        return str(item)
    if isinstance(item, str | int | float):
        return html.escape(str(item), quote=False)
    assert isinstance(item, Iterable), type(item)
    return join(item)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-") if key != "viewBox" else key
    if value is True:
        return f" {key}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {key}="{html.escape(str(value))}"'
