"""Charts as SVG, written by hand: small, and the same bytes for the same figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#555555")
"""Apart for those who see few colours (Okabe and Ito)."""
WIDTH: Final = 720
LEFT, RIGHT, TOP, BOTTOM = 64, 168, 44, 48
ROW: Final = 30
TICKS_MAX: Final = 8
"""Values that are named at an axis; where there are more, round ones are."""
TEXT: Final = "#222222"
GRID: Final = "#dddddd"


@dataclass(frozen=True)
class Line:
    """One series of a chart of lines."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One row of a chart of ratios: its quartiles, and what it is to reach."""

    name: str
    value: float
    low: float
    high: float
    target: float | None
    note: str = ""


class Canvas:
    """Elements of a picture."""

    def __init__(self, height: int, title: str) -> None:
        self.height = height
        self._title = title
        self._elements: list[str] = []
        self.text(LEFT, 24, title, size=15, weight="bold")

    def line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str = GRID, width: float = 1
    ) -> None:
        self._elements.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            f' stroke="{colour}" stroke-width="{width:g}"/>'
        )

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self._elements.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="{colour}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "start",
        size: int = 12,
        colour: str = TEXT,
        weight: str = "normal",
    ) -> None:
        self._elements.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"'
            f' text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
        )

    def polyline(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._elements.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        for x, y in points:
            self._elements.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')

    def __str__(self) -> str:
        body = "\n".join(self._elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}"'
            f' width="{WIDTH}" height="{self.height}" font-family="sans-serif" role="img">\n'
            f"<title>{escape(self._title)}</title>\n"
            f'<rect width="{WIDTH}" height="{self.height}" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


class Scale:
    """From a value to a place, by its logarithm."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.log10(min(values))
        self._high = max(math.log10(max(values)), self._low + 0.1)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + part * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Powers of ten within, or 1, 2 and 5 times them where there are few."""
        exponents = range(math.floor(self._low), math.ceil(self._high) + 1)
        for steps in ((1,), (1, 2, 5)):
            ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
            ticks = [
                tick for tick in ticks if self._low - 1e-9 <= math.log10(tick) <= self._high + 1e-9
            ]
            if len(ticks) > 2:
                break
        return ticks


def lines(title: str, x_name: str, y_name: str, series: Sequence[Line], height: int = 380) -> str:
    """Series over a common axis; both axes are logarithmic."""
    series = [each for each in series if each.points]
    canvas = Canvas(height, title)
    xs = sorted({x for each in series for x, _ in each.points})
    ys = [y for each in series for _, y in each.points]
    bottom, right = height - BOTTOM, WIDTH - RIGHT
    x_scale = Scale(xs, LEFT, right)
    decades = [10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)))]
    y_scale = Scale(decades, bottom, TOP)
    for tick in y_scale.ticks():
        canvas.line(LEFT, y_scale(tick), right, y_scale(tick))
        canvas.text(LEFT - 6, y_scale(tick) + 4, number(tick), anchor="end")
    for x in xs if len(xs) <= TICKS_MAX else x_scale.ticks():
        canvas.line(x_scale(x), bottom, x_scale(x), bottom + 5, TEXT)
        canvas.text(x_scale(x), bottom + 18, number(x), anchor="middle")
    canvas.line(LEFT, bottom, right, bottom, TEXT)
    canvas.text((LEFT + right) / 2, height - 12, x_name, anchor="middle")
    canvas.text(LEFT, TOP - 4, y_name, colour="#666666")
    labels = _apart([y_scale(each.points[-1][1]) for each in series])
    for n, each in enumerate(series):
        colour = COLOURS[n % len(COLOURS)]
        canvas.polyline([(x_scale(x), y_scale(y)) for x, y in each.points], colour)
        canvas.text(right + 10, labels[n] + 4, each.name, colour=colour)
    return str(canvas)


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Ratios on a logarithmic axis, with a mark at each target."""
    height = TOP + ROW * len(rows) + BOTTOM
    canvas = Canvas(height, title)
    left, right, bottom = 210, WIDTH - 90, height - BOTTOM
    values = [value for row in rows for value in (row.low, row.high, row.target or row.value)]
    scale = Scale([*values, 0.3, 1.0, 3.0], left, right)
    for tick in scale.ticks():
        canvas.line(scale(tick), TOP, scale(tick), bottom)
        canvas.text(scale(tick), bottom + 18, number(tick), anchor="middle")
    canvas.line(scale(1.0), TOP, scale(1.0), bottom, "#888888", 1.5)
    for n, row in enumerate(rows):
        middle = TOP + ROW * n + ROW / 2
        reached = row.target is None or row.value >= row.target
        colour = COLOURS[0] if reached else COLOURS[1]
        one, end = sorted((scale(1.0), scale(row.value)))
        canvas.text(left - 8, middle + 4, row.name, anchor="end")
        canvas.rectangle(one, middle - 7, end - one, 14, colour)
        canvas.line(scale(row.low), middle, scale(row.high), middle, TEXT, 1.5)
        if row.target is not None:
            place = scale(row.target)
            canvas.line(place, middle - 11, place, middle + 11, TEXT, 2)
        canvas.text(right + 8, middle + 4, f"{row.value:.2f}{row.note}")
    canvas.text(
        (left + right) / 2,
        height - 12,
        "times as fast; the upright mark is the target, the thin line the quartiles",
        anchor="middle",
        colour="#666666",
    )
    return str(canvas)


def number(value: float) -> str:
    """Short: 1, 2.5, 10k, 3M."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def _apart(places: Sequence[float], gap: float = 15) -> list[float]:
    """The places, moved down where they lie too close for their labels."""
    found = list(places)
    least = -math.inf
    for n in sorted(range(len(places)), key=lambda n: places[n]):
        found[n] = least = max(places[n], least + gap)
    return found
