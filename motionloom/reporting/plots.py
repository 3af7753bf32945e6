"""Small SVG drawings: strips of clips, bars, a radar, a plane, curves. Colours are the page's variables --s0 to --s7."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from motionloom.reporting.markup import Html, join, tag

NUM_COLOURS = 8
MAX_POINTS = 240  # of one strip or curve; more are thinned evenly, and the caption says so
MARKS = ("circle", "square", "triangle", "diamond")
Range = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One set of numbers in a drawing. `which` chooses colour and mark; `xs` are empty for strips."""

    label: str
    which: int
    ys: Sequence[float]
    xs: Sequence[float] = ()
    mean: float | None = None
    interval: Range | None = None


@dataclass(frozen=True)
class Axis:
    """Data => pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    ticks: tuple[float, ...] = field(default=())

    def __call__(self, value: float) -> float:
        if self.log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            low, high = self.low, self.high
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def axis(
    numbers: Sequence[float], start: float, end: float, *, zero: bool = False, log: bool = False
) -> Axis:
    """An axis over finite numbers, with round ticks."""
    finite = [number for number in numbers if math.isfinite(number)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if log:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = max(1, math.ceil(len(exponents) / 5))
        ticks = tuple(10.0**exponent for exponent in exponents[::every] if low <= 10.0**exponent <= high)
        return Axis(low, high if high > low else low * 10, start, end, True, ticks or (low, high))
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    if high == low:
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    step = _round_step((high - low) / 4)
    if not zero:
        pad = (high - low) * 0.06
        low, high = low - pad, high + pad
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return Axis(low, high, start, end, False, tuple((first + i) * step for i in range(count + 1)))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= step * 0.999)


def short(number: float, digits: int = 4) -> str:
    """A number for an axis or a label."""
    if not math.isfinite(number):
        return "undefined" if math.isnan(number) else ("∞" if number > 0 else "−∞")
    if number and not 1e-3 <= abs(number) < 1e5:
        mantissa, _, exponent = f"{number:.{max(0, digits - 2)}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{number:.{digits}g}".replace("-", "−")


def thinned(numbers: Sequence[float]) -> list[float]:
    """At most MAX_POINTS of sorted numbers, evenly by rank, the ends included."""
    ordered = sorted(number for number in numbers if math.isfinite(number))
    if len(ordered) <= MAX_POINTS:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]


def figure(drawing: Html, caption: object, *, wide: bool = False) -> Html:
    return tag("figure", drawing, tag("figcaption", caption), class_="wide" if wide else None)


def _svg(width: float, height: float, described: str, *content: object) -> Html:
    return tag(
        "svg",
        tag("title", described),
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        class_="plot",
        style=f"max-width:{width:g}px",
    )


def mark(which: int, x: float, y: float, size: float = 4.5) -> Html:
    """The mark of a set: colour and shape both, so that colour alone never tells."""
    shape = MARKS[which % len(MARKS)]
    style = f"fill:var(--s{which % NUM_COLOURS})"
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=size, style=style)
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "diamond": ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    }[shape]
    points = " ".join(f"{x + dx * size * 0.92:.1f},{y + dy * size * 0.92:.1f}" for dx, dy in corners)
    return tag("polygon", points=points, style=style)


def legend(series: Sequence[tuple[str, int]]) -> Html:
    items = [
        tag(
            "li",
            tag("svg", mark(which, 7, 7), viewBox="0 0 14 14", class_="key", aria_hidden="true"),
            label,
        )
        for label, which in series
    ]
    return tag("ul", items, class_="legend")


# --- values of sets


def value_chart(title: str, unit: str, series: Sequence[Series]) -> Html:
    """One value of every set: a strip of its clips with mean and interval, or a bar where there are no clips."""
    width, left, row = 380.0, 118.0, 30.0
    bars = not any(one.ys for one in series)
    everything = [
        number
        for one in series
        for number in (*one.ys, *((one.mean,) if one.mean is not None else ()), *(one.interval or ()))
    ]
    x = axis(everything, left, width - 16, zero=bars)
    height = row * len(series) + 30
    lines = [_value_row(one, x, 8 + row * (i + 0.5), bars) for i, one in enumerate(series)]
    described = f"{title}: " + ", ".join(
        f"{one.label} {short(one.mean)}" for one in series if one.mean is not None
    )
    return _svg(width, height, described, _ticks_below(x, height - 22, 4), lines)


def _value_row(one: Series, x: Axis, y: float, bars: bool) -> Html:
    colour = f"var(--s{one.which % NUM_COLOURS})"
    label = one.label if len(one.label) <= 17 else "…" + one.label[-16:]
    parts: list[Html] = [tag("text", label, x=x.start - 10, y=y + 4, class_="label", text_anchor="end")]
    if one.ys:
        path = "".join(
            f"M{x(value):.1f} {y + (i * 7 % 5 - 2) * 2:.1f}h0" for i, value in enumerate(thinned(one.ys))
        )
        parts.append(tag("path", d=path, class_="dots", style=f"stroke:{colour}"))
    if one.mean is None or not math.isfinite(one.mean):
        return join(
            [*parts, tag("text", "no number", x=x.start, y=y + 4, class_="tick")] if not one.ys else parts
        )
    if bars:
        left, right = sorted((x(0.0), x(one.mean)))
        parts.append(
            tag("rect", x=left, y=y - 7, width=max(right - left, 0.5), height=14.0, style=f"fill:{colour}")
        )
    if one.interval is not None:
        low, high = (x(end) for end in one.interval)
        d = f"M{low:.1f} {y - 5:.1f}v10m0-5H{high:.1f}m0-5v10"
        parts.append(tag("path", d=d, class_="interval"))
    return join(parts if bars else [*parts, tag("g", mark(one.which, x(one.mean), y), class_="mean")])


def _ticks_below(x: Axis, y: float, top: float) -> list[Html]:
    return [
        join(
            [
                tag("path", d=f"M{x(tick):.1f} {top:g}V{y:g}", class_="grid"),
                tag("text", short(tick), x=x(tick), y=y + 15, class_="tick", text_anchor="middle"),
            ]
        )
        for tick in x.ticks
    ]


def _ticks_left(y: Axis, left: float, right: float) -> list[Html]:
    return [
        join(
            [
                tag("path", d=f"M{left:g} {y(tick):.1f}H{right:g}", class_="grid"),
                tag("text", short(tick), x=left - 7, y=y(tick) + 4, class_="tick", text_anchor="end"),
            ]
        )
        for tick in y.ticks
    ]


def plane(x_name: str, y_name: str, series: Sequence[Series]) -> Html:
    """Two values against each other: a dot a clip, a large mark with both intervals a set."""
    width, height, left, bottom = 620.0, 380.0, 62.0, 330.0
    x = axis([value for one in series for value in one.xs], left, width - 14)
    y = axis([value for one in series for value in one.ys], bottom, 12)
    drawn: list[object] = [_ticks_below(x, bottom, 12), _ticks_left(y, left, width - 14)]
    for one in series:
        points = zip(one.xs[1:], one.ys[1:], strict=True)  # the first pair is the set's mean
        path = "".join(f"M{x(px):.1f} {y(py):.1f}h0" for px, py in points)
        drawn.append(tag("path", d=path, class_="dots", style=f"stroke:var(--s{one.which % NUM_COLOURS})"))
    drawn += [tag("g", mark(one.which, x(one.xs[0]), y(one.ys[0]), 7), class_="mean") for one in series]
    drawn.append(
        tag("text", x_name, x=(left + width) / 2, y=height - 12, class_="axis", text_anchor="middle")
    )
    drawn.append(
        tag(
            "text",
            y_name,
            transform=f"translate(14 {(12 + bottom) / 2:g}) rotate(-90)",
            class_="axis",
            text_anchor="middle",
        )
    )
    means = ", ".join(f"{one.label} at {short(one.xs[0])}, {short(one.ys[0])}" for one in series)
    return _svg(width, height, f"{y_name} against {x_name}: {means}", drawn)


def radar(axes: Sequence[str], series: Sequence[Series]) -> Html:
    """Values between 0 (centre) and 1 (rim), one spoke each."""
    width, height, radius = 560.0, 400.0, 140.0
    cx, cy = width / 2, height / 2
    turn: Callable[[int], float] = lambda i: 2 * math.pi * i / len(axes) - math.pi / 2  # noqa: E731

    def at(i: int, value: float) -> tuple[float, float]:
        return cx + radius * value * math.cos(turn(i)), cy + radius * value * math.sin(turn(i))

    def ring(values: Sequence[float]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*at(i, value)) for i, value in enumerate(values))

    drawn: list[object] = [
        tag("polygon", points=ring([level] * len(axes)), class_="grid") for level in (0.25, 0.5, 0.75, 1.0)
    ]
    for i, name in enumerate(axes):
        (ex, ey), (tx, ty) = at(i, 1.0), at(i, 1.1)
        anchor = "middle" if abs(tx - cx) < 12 else ("start" if tx > cx else "end")
        drawn.append(tag("path", d=f"M{cx:g} {cy:g}L{ex:.1f} {ey:.1f}", class_="grid"))
        drawn.append(tag("text", name, x=tx, y=ty + 4, class_="tick", text_anchor=anchor))
    for one in series:
        colour = f"var(--s{one.which % NUM_COLOURS})"
        drawn.append(
            tag("polygon", points=ring(one.ys), class_="area", style=f"stroke:{colour};fill:{colour}")
        )
        drawn += [mark(one.which, *at(i, value), 3.5) for i, value in enumerate(one.ys)]
    described = "; ".join(
        f"{one.label}: " + ", ".join(f"{name} {short(v, 3)}" for name, v in zip(axes, one.ys, strict=True))
        for one in series
    )
    return _svg(width, height, described, drawn)


# --- curves


def curves(
    x_name: str, y_name: str, series: Sequence[Series], *, small: bool = False, log: bool = False
) -> Html:
    """Lines over steps or frames. `log` asks for a logarithmic y axis; it is taken only if every number is above 0."""
    width, height = (250.0, 96.0) if small else (420.0, 230.0)
    left, bottom = (44.0, height - 22) if small else (56.0, height - 40)
    points = [bucketed(one.xs, one.ys) for one in series]
    numbers = [py for line in points for _, py in line if math.isfinite(py)]
    log = log and bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) > 20
    x = axis([value for one in series for value in one.xs], left, width - 8)
    y = axis(numbers, bottom, 8, log=log)
    drawn: list[object] = [_ticks_below(x, bottom, 8), _ticks_left(y, left, width - 8)]
    for one, line in zip(series, points, strict=True):
        style = f"stroke:var(--s{one.which % NUM_COLOURS})"
        drawn.append(
            tag("path", d=_path(line, x, y), class_="line", style=style, stroke_dasharray=_dash(one.which))
        )
    if not small:
        drawn.append(
            tag("text", x_name, x=(left + width) / 2, y=height - 6, class_="axis", text_anchor="middle")
        )
    ends = ", ".join(f"{one.label} ends at {short(one.ys[-1])}" for one in series if len(one.ys))
    return _svg(width, height, f"{y_name} over {x_name}: {ends}", drawn)


def _dash(which: int) -> str | None:
    return (None, "7 3", "2 3", "8 3 2 3")[which % 4]


def _path(line: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Lines between neighbours; a number that is not finite leaves a gap."""
    parts, pen_up = [], True
    for px, py in line:
        if not math.isfinite(py):
            pen_up = True
            continue
        parts.append(f"{'M' if pen_up else 'L'}{x(px):.1f} {y(py):.1f}")
        pen_up = False
    return "".join(parts)


def bucketed(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points: neighbours are averaged; a bucket with a number that is not finite is not finite."""
    per = math.ceil(len(xs) / MAX_POINTS) or 1
    return [
        (sum(xs[i : i + per]) / len(xs[i : i + per]), sum(ys[i : i + per]) / len(ys[i : i + per]))
        for i in range(0, len(xs), per)
    ]
