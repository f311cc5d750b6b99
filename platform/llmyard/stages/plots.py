"""Lines in a frame, as coordinates that a page's template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Colours that stay apart for the colour-blind (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        word: Of the legend, a key of the page's texts; "" without.
        name: Behind it.
        points: (x, y).
        bounds: (x, least, most), drawn as a band.
        dotted: Whether every point is marked.
    """

    points: Sequence[tuple[float, float]]
    word: str = ""
    name: str = ""
    bounds: Sequence[tuple[float, float, float]] = ()
    dotted: bool = False


@dataclass(frozen=True)
class Mark:
    """An upright line at a place."""

    x: float
    kind: str
    what: str
    colour: str


@dataclass
class Frame:
    """Where values lie in a picture.

    Args:
        x: Least and most.
        y: Least and most; what lies beyond is drawn at the edge.
        logarithmic: Whether y is; its least must then be above 0.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    logarithmic: bool = False
    width: int = 720
    height: int = 240
    left: int = field(default=58, init=False)
    top: int = field(default=10, init=False)

    @property
    def right(self) -> int:
        """Its right edge."""
        return self.width - 12

    @property
    def bottom(self) -> int:
        """Its lower edge."""
        return self.height - 24

    def at_x(self, value: float) -> float:
        """Returns the place of a value."""
        share = (value - self.x[0]) / max(self.x[1] - self.x[0], 1e-12)
        return round(self.left + share * (self.right - self.left), 1)

    def at_y(self, value: float) -> float:
        """Returns the height of a value."""
        low, high = self.y
        value = min(max(value, low), high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / max(high - low, 1e-12)
        return round(self.bottom - share * (self.bottom - self.top), 1)

    def drawn(self, lines: Sequence[Line], marks: Sequence[Mark] = ()) -> dict[str, Any]:
        """Returns what the template draws."""
        curves = []
        for number, line in enumerate(lines):
            edge = [(x, most) for x, _, most in line.bounds] + [(x, least) for x, least, _ in reversed(line.bounds)]
            dots = [
                {"x": self.at_x(x), "y": self.at_y(y), "title": f"{line.name} {x:g}: {y:.4g}".strip()}
                for x, y in (line.points if line.dotted else ())
            ]
            curves.append(
                {"points": self._path(line.points), "band": self._path(edge), "dots": dots, "word": line.word}
                | {"name": line.name, "title": line.name, "colour": COLOURS[number % len(COLOURS)]}
            )
        shown = [
            {"x": self.at_x(mark.x), "kind": mark.kind, "what": mark.what, "colour": mark.colour, "step": f"{mark.x:g}"}
            for mark in marks
        ]
        ticks = powers(*self.y) if self.logarithmic else steps(*self.y)
        return {
            "width": self.width, "height": self.height, "left": self.left, "right": self.right, "top": self.top,
            "bottom": self.bottom, "curves": curves, "marks": shown,
            "y_ticks": [{"at": self.at_y(tick), "text": _text(tick)} for tick in ticks],
            "x_ticks": [{"at": self.at_x(tick), "text": _text(tick)} for tick in steps(*self.x, whole=True)],
        }  # fmt: skip

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.at_x(x):g},{self.at_y(y):g}" for x, y in points)


def framed(lines: Sequence[Line], *, logarithmic: bool = False, width: int = 360, height: int = 170) -> Frame:
    """Returns a frame that holds all points of some lines."""
    values = [y for line in lines for _, y in line.points if not logarithmic or y > 0] or [1.0]
    places = [x for line in lines for x, _ in line.points] or [0.0]
    low, high = min(values), max(values)
    if logarithmic:
        low, high = low / 1.2, high * 1.2
    elif low == high:
        around = 0.5 * abs(low) or 0.5
        low, high = low - around, high + around
    else:
        low = 0.0 if 0 <= low < 0.5 * high else low
    return Frame((min(places), max(places)), (low, high), logarithmic, width, height)


def steps(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Returns some round numbers between two, evenly apart."""
    span = max(high - low, 1e-12)
    size = 10.0 ** math.floor(math.log10(span / most))
    step = next(each * size for each in (1, 2, 5, 10) if span / (each * size) <= most)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Returns the powers of ten between two numbers; round numbers where there are fewer than two."""
    found = [10.0**each for each in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    return found[:: max(1, len(found) // 6)] if len(found) > 1 else steps(low, high, most=4)


def _text(value: float) -> str:
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{round(value, 6):,.10g}"
