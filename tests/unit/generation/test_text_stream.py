"""Text piece by piece: it adds up to the whole, and no character is split."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmyard.generation.text_stream import TextStream


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.add(token) for token in ids), stream.end()]


@pytest.mark.parametrize("text", ["绿色的灯，在科拉镇。", "naïve 🙂🏽 lamp", "\ufffd and \ufffd", " two  spaces ", ""])
def test_text_comes_whole(tiny: Any, text: str) -> None:
    said = pieces(tiny.tokenizer, tiny.tokenizer.encode(text))
    assert "".join(said) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in said)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ids=st.lists(st.integers(0, 299), max_size=40))
def test_any_ids_add_up(tiny: Any, ids: list[int]) -> None:
    said = pieces(tiny.tokenizer, ids)
    assert "".join(said) == tiny.tokenizer.decode(ids)
    assert not any(piece.endswith("\ufffd") for piece in said[:-1])


def test_a_character_that_is_cut_shows_at_the_end_only(tiny: Any) -> None:
    ids = tiny.tokenizer.encode("灯龘")  # the second one is three tokens
    assert pieces(tiny.tokenizer, ids[:-1])[-1] == "\ufffd"
    assert "".join(pieces(tiny.tokenizer, ids[:-1])[:-1]) == "灯"
