"""The page after training: curves, events and texts stand on it in both languages, and no text becomes markup."""

from __future__ import annotations

import math
import re

import pytest

from llmyard.stages.config import Pretrain
from llmyard.stages.plots import Frame, Line, framed, powers, steps
from llmyard.stages.training_report import PAGES, pages
from llmyard.training.history import History

CONFIG = Pretrain.model_validate(
    {"output": "base", "shards": "c", "steps": 300, "model": {"family": "gpt2"}, "resources": {"workers": 1}}
    | {"batch": {"size": 16, "micro_batch": 16}}
)


@pytest.fixture
def history() -> History:
    history = History()
    for step in range(1, 301):
        loss = 50.0 if step == 150 else 6.0 / math.sqrt(step)
        history.log(step, {"loss": loss, "gradient_norm": 1.0, "learning_rate": 1e-3, "tokens_per_second": 5e3})
    for step in (100, 200, 300):
        history.evaluated(step, {"validation_loss": 1.0, "validation_loss/诗": 0.9, "validation_perplexity": 2.7})
        history.looked(step, {f"gradients/h/{layer:02d}": 10.0**-layer for layer in range(4)})
        history.wrote(step, [("春眠", "<b>不觉晓</b>")])
    history.evaluated(50, {"validation_loss": math.inf, "validation_perplexity": math.nan})
    history.looked(50, {"gradients/h/00": math.inf, "activations/h/00": math.nan})
    history.happened(150, "skip", "the gradient norm is a spike (50)")
    history.happened(160, "resumed", "2 workers")
    history.happened(170, "diagnosis", "h: gradients vanish: use norm: pre")
    return history


def test_both_pages_hold_what_happened(history: History) -> None:
    made = pages(CONFIG, history)
    assert list(made) == list(PAGES.values())
    english, chinese = made.values()
    assert 'lang="zh"' in chinese
    assert "训练报告" in chinese
    assert "Training report: base" in english
    assert "300 of 300 steps" in english
    for page in made.values():
        assert "the gradient norm is a spike (50)" in page
        assert page.count('class="event"') == 3
        assert "&lt;b&gt;不觉晓" in page
        assert "<b>" not in page
        assert "validation_loss/诗" in page
        assert not re.search(r"(src|href)=\"(http|//)", page)  # self-contained
        assert "nan" not in page
        assert "inf" not in page.replace("information", "")
    assert "step passed over" in english
    assert "跳过该步" in chinese


def test_a_run_that_logged_nothing_has_a_page_too() -> None:
    history = History()
    history.happened(0, "stop", "the loss is not finite (nan)")
    english, chinese = pages(CONFIG, history).values()
    assert "No step was logged" in english
    assert "没有记录任何一步" in chinese
    assert "the loss is not finite" in english


def test_a_spike_does_not_press_the_curve_flat(history: History) -> None:
    english, _ = pages(CONFIG, history).values()
    heights = [
        float(pair.split(",")[1])
        for pair in re.findall(r'<polyline class="curve" points="([^"]+)"', english)[0].split()
    ]
    assert heights[0] - min(heights) < 0.05 * (max(heights) - min(heights))  # the first loss is at the top
    assert max(heights) - heights[20] > 0.03 * (max(heights) - min(heights))  # and later ones can be told apart


def test_places_in_a_frame() -> None:
    frame = Frame((0, 100), (1.0, 1000.0), logarithmic=True)
    assert frame.at_x(0) == frame.left
    assert frame.at_x(100) == frame.right
    assert frame.at_y(1.0) == frame.bottom
    assert frame.at_y(1000.0) == frame.top
    assert frame.at_y(1e9) == frame.top  # beyond: at the edge
    assert frame.at_y(10.0) - frame.at_y(100.0) == pytest.approx(frame.at_y(1.0) - frame.at_y(10.0), abs=0.2)
    flat = framed([Line([(1, 2.0), (2, 2.0)])])
    assert flat.y[0] < 2.0 < flat.y[1]
    drawn = flat.drawn([Line([(1, 2.0)], dotted=True)])
    assert drawn["curves"][0]["dots"][0]["y"] == flat.at_y(2.0)


def test_ticks_are_round_numbers() -> None:
    assert steps(0, 300, whole=True) == [0, 50, 100, 150, 200, 250, 300]
    assert steps(0.0, 3.0, whole=True) == [0, 1, 2, 3]
    assert steps(1.23, 1.31) == pytest.approx([1.24, 1.26, 1.28, 1.3])
    assert powers(0.02, 300) == pytest.approx([0.1, 1, 10, 100])
