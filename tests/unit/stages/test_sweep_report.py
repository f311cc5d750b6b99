"""The page after a sweep: the best setting stands on it, trials are where they belong, and no text becomes markup."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmyard.stages import sweep_report
from llmyard.stages.sweep_report import pages
from llmyard.stages.training_report import PAGES
from llmyard.sweeps.config import Searching
from llmyard.sweeps.space import drawn
from llmyard.sweeps.trial import Report, Trial, front_of

SPENT = {"seconds": 4000.0, "trial_seconds": 6100.0, "steps": 12345.0}
NASTY = "<script>alert('学习率')</script>"
SPACE: dict[str, Any] = {
    "optimizer.learning_rate": "loguniform(1e-5, 1e-1)",
    "model.layers": "int(2, 12)",
    "optimizer.kind": "choice(adamw, muon)",
    "optimizer.momentum": {"search": "uniform(0.5, 1)", "when": {"optimizer.kind": "muon"}},
    "数据.混合": {"kind": "choice", "choices": [["网络", "百科"], None, NASTY, "很长的选择" * 20, True]},
}


def searching(**fields: Any) -> Searching:
    given = {"space": SPACE, "objective": {"metric": "validation_loss"}, "budget": {"trials": 40}}
    return Searching.model_validate(given | fields)


def swept(config: Searching, count: int = 40) -> list[Trial]:
    """Returns trials of which every third was pruned and every thirteenth failed; number 0 is the best."""
    found = []
    for number in range(count):
        values = drawn(config.space, 0, number)
        state: Any = "failed" if number % 13 == 5 else "pruned" if number % 3 == 1 else "finished"
        loss = 2.0 + number / 100
        stop = 300 if state == "finished" else 100
        reports = tuple(Report(step, {"validation_loss": loss + 100 / step}) for step in range(50, stop + 1, 50))
        metrics = {"validation_loss": loss, "speed": 10.0 + (number * 7 % 40)} if state == "finished" else {}
        metrics = metrics or ({**reports[-1].metrics} if state == "pruned" else {})
        why = "" if state == "finished" else f"{state} & <b>gone</b>"
        artifact = f"checkpoint/base-rates-{number:04d}@1" if number == 0 else ""
        found.append(Trial(number, values, state, reports, metrics, 60.0, stop, why, artifact))
    return found


def made(config: Searching, trials: Sequence[Trial], importance: dict[str, float] | None = None) -> str:
    return pages("速率", config, trials, importance or {}, SPENT)[PAGES["en"]]


def section(page: str, head: str) -> str:
    """Returns what stands below a heading; "" where there is none."""
    return next((part for part in page.split("<h2>")[1:] if part.startswith(f"{head}</h2>")), "")


def rows_of(page: str) -> list[tuple[int, str]]:
    return [
        (int(number), row)
        for number, row in re.findall(r'<tr data-trial="(\d+)"[^>]*>(.*?)</tr>', section(page, "Trials"), re.DOTALL)
    ]


def heights(points: str) -> list[float]:
    return [float(pair.split(",")[1]) for pair in points.split()]


class Structure(HTMLParser):
    """What elements a page has, each closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ("25 of 40 trials finished, 12 were pruned, 3 failed", "Best: trial 0", "1 h 7 min", "12,345 steps")),
        (
            "zh",
            ("共 40 次试验：25 次完成，12 次提前终止，3 次失败", "最佳：试验 0", "1 小时 7 分钟", "重要性", "学习曲线"),
        ),
    ],
)
def test_the_best_trial_stands_on_both_pages(language: Any, said: tuple[str, ...]) -> None:
    config = searching()
    trials = swept(config)
    page = pages("速率", config, trials, {"optimizer.learning_rate": 0.713, "model.layers": 0.287}, SPENT)[
        PAGES[language]
    ]
    assert f'lang="{language}"' in page
    for text in (*said, "速率", "validation_loss 2", "checkpoint/base-rates-0000@1", "71.3 %", "28.7 %"):
        assert text in page
    head = page[: page.index("<svg")]
    assert f"{trials[0].values['optimizer.learning_rate']:.4g}" in head
    for path in trials[0].values:
        assert path in head


def test_no_text_becomes_markup() -> None:
    config = searching()
    trials = [
        Trial(number, {**trial.values, "数据.混合": choice}, trial.state, trial.reports, trial.metrics, why=trial.why)
        for number, (trial, choice) in enumerate(zip(swept(config), config.space["数据.混合"].choices * 8, strict=True))
    ]
    page = made(config, trials)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#39;学习率&#39;)" in page
    assert "<b>gone" not in page
    assert "pruned &amp; &lt;b&gt;gone" in page
    for text in ("[&#34;网络&#34;, &#34;百科&#34;]", "null", "true", "很长的选择"):
        assert text in page
    assert not re.search(r"(src|href)=\"?(https?:|//)", page)  # self-contained


@pytest.mark.parametrize("also", [(), ({"metric": "speed", "mode": "max"},)])
def test_both_languages_have_the_same_structure(also: Any) -> None:
    config = searching(also=also)
    english, chinese = (Structure(page) for page in pages("x", config, swept(config), {"a": 1.0}, SPENT).values())
    assert english.found == chinese.found
    assert not english.open
    assert english.found.count("svg") == 3 + len(also)


def test_every_text_is_there_in_both_languages() -> None:
    file = Path(sweep_report.__file__).with_suffix(".yaml")
    for key, texts in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        assert set(texts) == {"en", "zh"}, key
        fields = [set(re.findall(r"\{(\w+)\}", text)) for text in texts.values()]
        assert fields[0] == fields[1], key


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [Trial(0, {})],
        [Trial(0, {}, "failed", why="broke")],
        [Trial(0, {}, "finished", metrics={"validation_loss": math.nan})],
        [Trial(4, {"model.layers": 3}, "pruned", (Report(0, {"validation_loss": math.nan}),), {}, why="nan")],
        [Trial(4, {}, "pruned", (Report(5, {"other": 1.0}),), {"validation_loss": math.inf})],
    ],
)
def test_where_nothing_was_found_there_is_a_page_too(trials: list[Trial]) -> None:
    for also in ((), ({"metric": "speed"},)):
        english, chinese = pages("x", searching(also=also), trials, {"model.layers": math.nan}, {}).values()
        assert "No trial finished with a figure." in english
        assert "没有任何试验得出指标" in chinese
        assert "<svg" not in english
        assert len(rows_of(english)) == len(trials)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-300, 1e99, 5.0])
def test_a_single_trial_has_all_pictures(value: float) -> None:
    config = searching(also=[{"metric": "speed"}])
    reports = (Report(10, {"validation_loss": value}),)
    trial = Trial(7, drawn(config.space, 0, 7), "finished", reports, {"validation_loss": value, "speed": value})
    page = made(config, [trial])
    assert page.count("<svg") == 4
    assert "nan" not in page
    assert 'cx="0' not in page


def test_pruned_trials_are_hollow_dots_at_their_last_number() -> None:
    config = searching()
    trials = swept(config)
    reports = (Report(50, {"validation_loss": 2.5}), Report(100, {"validation_loss": math.nan}))
    trials.append(Trial(40, trials[0].values, "pruned", reports, {"validation_loss": math.nan}, why="nan"))
    page = section(made(config, trials), "History")
    dots = {int(n): (kind, float(y)) for kind, n, y in re.findall(r'"(\w+)" data-trial="(\d+)".*?cy="([\d.]+)"', page)}
    assert {n for n, (kind, _) in dots.items() if kind == "pruned"} == {t.number for t in trials if t.state == "pruned"}
    assert not {t.number for t in trials if t.state == "failed"} & {*dots}
    assert dots[0][0] == "best"
    assert dots[40][1] < dots[0][1]  # 2.5 is above 2.0
    leading = re.findall(r'leading" points="([^"]+)"', page)[0]
    assert heights(leading) == [dots[0][1]] * 2  # the first trial was the best all along


def test_the_best_so_far_goes_down_in_steps_and_up_where_more_is_better() -> None:
    for mode, sign in (("min", 1), ("max", -1)):
        config = searching(objective={"metric": "score", "mode": mode})
        scores = [5.0, 7.0, 3.0, 4.0, 1.0]
        trials = [Trial(n, {}, "finished", metrics={"score": sign * each}) for n, each in enumerate(scores)]
        line = heights(re.findall(r'leading" points="([^"]+)"', made(config, trials))[0])
        assert len(line) == 6
        assert [sign * each for each in line] == sorted(sign * each for each in line)
        assert line[0] == line[1]
        assert line[2] == line[3]


def test_figures_far_apart_have_a_log_scale_and_one_far_out_does_not_press_the_others_flat() -> None:
    def page(values: Sequence[float]) -> str:
        trials = [Trial(n, {}, "finished", metrics={"validation_loss": each}) for n, each in enumerate(values)]
        return section(made(searching(), trials), "History")

    apart = [0.01 * 2**n for n in range(10)]
    assert "logarithmic" in page(apart)
    assert "logarithmic" not in page([*apart, -1.0])
    assert "logarithmic" not in page([1.0 + n for n in range(10)])
    diverged = page([2.0 + n / 10 for n in range(20)] + [1e30])
    assert "logarithmic" not in diverged
    places = sorted(float(y) for y in re.findall(r'cy="([\d.]+)"', diverged))
    assert places[-1] - places[1] > 100


def test_at_most_sixty_curves_are_drawn_and_the_best_on_top() -> None:
    config = searching()
    trials = [*reversed(swept(config, 500))]
    page = section(made(config, trials), "Learning curves")
    curves = re.findall(r'<polyline class="curve (\w+)" data-trial="(\d+)"', page)
    assert len(curves) == 60
    assert "60 of 500 are drawn" in page
    assert curves[-1] == ("best", "0")
    numbers = sorted(int(number) for _, number in curves)
    assert max(b - a for a, b in pairwise(numbers)) < 10  # evenly chosen
    trials[4] = replace(trials[4], state="finished", metrics={"validation_loss": 0.1})  # not one of those even places
    page = section(made(config, trials), "Learning curves")
    curves = re.findall(r'<polyline class="curve (\w+)" data-trial="(\d+)"', page)
    assert curves[-1] == ("best", str(trials[4].number))
    assert len(curves) == 60


def test_a_setting_that_does_not_apply_is_below_the_axis() -> None:
    config = searching()
    trials = swept(config)
    page = section(made(config, trials), "Settings and figures")
    lines = {int(n): p for n, p in re.findall(r'<polyline class="curve" data-trial="(\d+)" points="([^"]+)"', page)}
    finished = [each for each in trials if each.state == "finished"]
    assert set(lines) == {each.number for each in finished}
    assert page.count('class="label missing"') == 1
    bottom = float(re.findall(r'class="upright".*?y2="([\d.]+)"', page)[0])
    at = [*config.space].index("optimizer.momentum")
    for trial in finished:
        points = heights(lines[trial.number])
        assert len(points) == len(config.space) + 1
        assert (points[at] > bottom) == ("optimizer.momentum" not in trial.values)
        assert all(each <= bottom for other, each in enumerate(points) if other != at)
    assert heights(lines[0])[-1] == max(heights(line)[-1] for line in lines.values())  # the least loss is lowest
    unconditional = {path: each for path, each in SPACE.items() if path != "optimizer.momentum"}
    assert 'class="label missing"' not in made(searching(space=unconditional), trials)


def test_a_choice_of_another_space_is_no_reason_to_have_no_page() -> None:
    config = searching()
    trial = Trial(0, {"optimizer.kind": "adam"}, "finished", metrics={"validation_loss": 1.0})
    assert ">adam<" in made(config, [trial])


def test_importance_is_shown_where_it_is_known() -> None:
    config = searching()
    page = section(made(config, swept(config), {"model.layers": 0.2, "optimizer.kind": 0.8}), "Importance")
    assert page.index("optimizer.kind") < page.index("model.layers")
    assert "width: 100.0%" in page
    assert "width: 25.0%" in page
    assert not section(made(config, swept(config)), "Importance")
    assert not section(made(config, swept(config), {"model.layers": 0.0}), "Importance")


def test_members_of_the_front_are_marked_and_joined() -> None:
    config = searching(also=[{"metric": "speed", "mode": "max"}])
    trials = swept(config, 100)
    front = {each.number for each in front_of(trials, config.objectives)}
    assert len(front) > 1
    page = section(made(config, trials), "Pareto front")
    assert {int(n) for n in re.findall(r'class="best front" data-trial="(\d+)"', page)} == front
    assert {int(n) for n in re.findall(r'<tr data-trial="(\d+)"', page)} == front
    assert len(heights(re.findall(r'leading" points="([^"]+)"', page)[0])) == 2 * len(front) - 1
    assert "speed (more is better)" in page
    assert not section(made(searching(), trials), "Pareto front")


def test_a_front_of_three_objectives_is_not_joined() -> None:
    config = searching(also=[{"metric": "speed", "mode": "max"}, {"metric": "memory"}])
    trials = [
        Trial(n, {}, "finished", metrics={"validation_loss": 1.0 + n, "speed": 10.0 + n, "memory": float(n % 3)})
        for n in range(6)
    ]
    page = section(made(config, trials), "Pareto front")
    assert "leading" not in page
    assert "first two of 3 objectives" in page


def test_the_table_has_the_best_first_and_says_what_is_left_out() -> None:
    config = searching()
    trials = swept(config)
    rows = rows_of(made(config, trials[::-1]))
    states = [trials[number].state for number, _ in rows]
    assert states == ["finished"] * 25 + ["pruned"] * 12 + ["failed"] * 3
    finished = [number for number, _ in rows[:25]]
    assert finished == sorted(finished)
    assert all(("–" in row) == ("optimizer.momentum" not in trials[number].values) for number, row in rows[:25])
    assert "are left out" not in made(config, trials)
    many = made(config, swept(config, 500))
    assert len(rows_of(many)) == 200
    assert "300 further trials are left out" in many
