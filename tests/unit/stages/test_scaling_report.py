"""The page of a scaling law: its numbers stand on it in both languages, and what was not measured is marked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llmyard.stages import scaling_report
from llmyard.stages.scaling_report import PAGES, pages
from llmyard.sweeps.scaling import Law, Point, Resampled, fit, held_out, optimal, resample

TOY = Law(1.8, 150.0, 0.35, 400.0, 0.33)
TEXTS = yaml.safe_load(Path(scaling_report.__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@cache
def measured(sizes: int = 5, counts: int = 5, noise: float = 0.01) -> tuple[Point, ...]:
    dice = np.random.default_rng(3)
    return tuple(
        Point(float(size), float(tokens), TOY.loss(size, tokens) * math.exp(noise * dice.normal()))
        for size in np.geomspace(1e5, 2e6, sizes)
        for tokens in np.geomspace(2e6, 3e7, counts)
    )


@cache
def fitted(points: tuple[Point, ...]) -> tuple[Law, Resampled]:
    return fit(points), resample(points, 30)


def made(points: tuple[Point, ...], budgets: Sequence[float] = (), name: str = "规模") -> dict[str, str]:
    return pages(name, points, *fitted(points), budgets)


class Structure(HTMLParser):
    """What elements a page has, each closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def section(page: str, key: str, language: str = "en") -> str:
    head = TEXTS[key][language]
    return next(part for part in page.split("<h2>")[1:] if part.startswith(f"{head}</h2>"))


def test_every_text_is_there_in_both_languages_and_used() -> None:
    template = Path(scaling_report.__file__).with_suffix(".html").read_text(encoding="utf-8")
    for key, texts in TEXTS.items():
        assert set(texts) == {"en", "zh"}, key
        fields = [set(re.findall(r"\{(\w+)\}", text)) for text in texts.values()]
        assert fields[0] == fields[1], key
        built = key.startswith(("of_", "outside_")) or key in ("title", "other")
        assert built or f'say("{key}"' in template, key
    used = set(re.findall(r'say\("(\w+)"[,)]', template))
    assert used <= {*TEXTS}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_law_and_how_far_to_trust_it_stand_on_both_pages(language: Any) -> None:
    points = measured()
    law, bands = fitted(points)
    found = made(points)
    assert set(found) == {"scaling.html", "scaling.zh.html"}
    page = found[PAGES[language]]
    assert f'lang="{language}"' in page
    assert "规模" in page
    assert f'href="{PAGES["zh" if language == "en" else "en"]}"' in page
    formula = re.sub(r"<[^>]+>", "", page[page.index('class="formula"') :].split("</p>")[0])
    for value in (law.irreducible, law.alpha, law.beta):
        assert f"{value:.3f}" in formula
    for figure in (lambda each: each.alpha, lambda each: each.size_exponent):
        low, high = bands.interval(figure)
        assert f"{low:.3f} – {high:.3f}" in page
    told = held_out(points)
    trust = section(page, "trust", language)
    for text in (f"{told.predicted:.3f}", f"{told.run.loss:.3f}", f"{100 * told.error:+.2f}".replace("-", "−")):
        assert text in trust
    assert "Porian" in trust
    assert page.count("<svg") == 3


def test_both_languages_have_the_same_structure_and_all_is_within() -> None:
    english, chinese = made(measured()).values()
    structures = [Structure(english), Structure(chinese)]
    assert structures[0].found == structures[1].found
    assert not structures[0].open
    for page in (english, chinese):
        assert not re.search(r"(src|href)=\"?(https?:|//)", page)
        assert not re.search(r"\b(nan|inf|None)\b", page)
    words = re.sub(r"<[^>]+>|&#?\w+;", " ", chinese[chinese.index("<body") :])
    left = {*re.findall(r"[A-Za-z]{4,}", words)}
    assert left == {"English", "FLOPs", "Hoffmann", "Pearce", "Porian", "Song"}


def test_a_name_becomes_no_markup() -> None:
    page = made(measured(), name="<script>alert(1)</script>")["scaling.html"]
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_each_budget_has_a_row_and_those_beyond_are_marked() -> None:
    points = measured()
    law, bands = fitted(points)
    most = max(each.flops for each in points)
    page = made(points, [1000 * most, most / 8, most])["scaling.html"]
    rows = re.findall(r"<tr( class=\"beyond\")?><td class=\"number\">(.*?)</tr>", section(page, "budgets"))
    assert [bool(beyond) for beyond, _ in rows] == [False, False, True]  # in order
    assert "1,000×" in rows[2][1]
    assert "size outside" in rows[2][1]
    assert "tokens outside" in rows[2][1]
    assert "outside" not in rows[0][1]
    size, _ = optimal(law, most / 8)
    low, high = bands.optimum(most / 8).parameters
    assert f">{size / 1e3:.3g}k<small>{low / 1e3:.3g}k – {high / 1e3:.3g}k<" in rows[0][1]
    assert page.count('class="optimum"') == 3
    assert page.count('class="curve beyond"') == 1


def test_without_budgets_there_are_some() -> None:
    page = made(measured())["scaling.html"]
    assert section(page, "budgets").count("<small>") >= 5 * 4
    assert page.count('class="optimum"') == 5
    assert "extrapolated: 10×" in page


def test_every_run_is_a_dot_where_it_belongs() -> None:
    points = measured()
    for key in ("by_tokens", "by_compute"):
        part = section(made(points)["scaling.html"], key)
        dots = [(float(x), float(y)) for x, y in re.findall(r'class="measured" cx="([\d.]+)" cy="([\d.]+)"', part)]
        assert len(dots) == len(points)
        higher = sorted(zip(dots, points, strict=True), key=lambda pair: pair[1].loss)
        assert [y for (_, y), _ in higher] == sorted((y for _, y in dots), reverse=True)
        across = {
            round(math.log10(p.tokens if key == "by_tokens" else p.flops), 9): x
            for (x, _), p in zip(dots, points, strict=True)
        }
        shares = np.polyfit([*across], [*across.values()], 1)
        assert np.allclose(np.polyval(shares, [*across]), [*across.values()], atol=0.11)  # a log scale


def test_many_sizes_are_thinned_out() -> None:
    page = made(measured(12, 3))["scaling.html"]
    assert section(page, "by_tokens").count('<polyline class="curve ') == 8
    assert section(page, "by_compute").count('<polyline class="curve ') == 8 + 2


def test_few_points_are_said_to_say_little() -> None:
    few, many = (made(points)["scaling.html"] for points in (measured(3, 3), measured()))
    assert "easily passes through five of 9 points" in few
    assert "further draws could not be fitted" in few
    assert "easily passes" not in many
    assert "further draws" not in many


def test_where_the_largest_run_cannot_be_left_out_the_page_says_so() -> None:
    points = tuple(
        Point(size, tokens, TOY.loss(size, tokens))
        for size, tokens in ((1e5, 2e6), (1e5, 3e7), (5e5, 8e6), (5e5, 3e7), (2e6, 2e6), (2e6, 8e6))
    )
    english, chinese = made(points).values()
    assert "Fitted without the largest run" not in english
    assert TEXTS["no_held_out"]["en"] in english
    assert TEXTS["no_held_out"]["zh"] in chinese


def test_an_unknown_floor_is_told() -> None:
    points = measured()
    law, bands = fitted(points)
    loose = Resampled((*bands.laws[:-3], *[Law(1e-4, law.a, law.alpha, law.b, law.beta)] * 3), 0)
    assert TEXTS["no_floor"]["en"] in pages("x", points, law, loose)["scaling.html"]
    exact = Resampled((TOY,) * 20, 0)
    assert TEXTS["no_floor"]["en"] not in pages("x", points, TOY, exact)["scaling.html"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (999.6, "1,000"), (12345.0, "12.3k"), (999_999.0, "1M"), (1.25e6, "1.25M"), (7e10, "70B"),
     (1.4e12, "1.4T"), (3e17, "3e17"), (0.2, "0.2"), (1e-30, "1e-30")],
)  # fmt: skip
def test_amounts_are_brief(value: float, text: str) -> None:
    assert scaling_report._amount(value) == text
