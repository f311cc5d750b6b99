"""Digests of texts."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.text.digests import digests


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", "00000000000000000000000000000000"),
        ("hello", "029bbd41b3a7d8cb191dae486a901e5b"),
        ("The quick brown fox jumps over the lazy dog", "6c1b07bc7bbc4be347939ac4a93c437a"),
    ],
)
def test_published_values_of_murmurhash(text: str, digest: str) -> None:
    (found,) = digests(pa.array([text]))
    assert found.as_py().hex() == digest


@given(st.lists(st.text(max_size=70), max_size=6))
def test_a_digest_depends_on_its_own_text_alone(texts: list[str]) -> None:
    column = pa.array(["before", *texts, "after"], pa.large_string()).slice(1, len(texts))
    together = digests(column).to_pylist()
    assert together == [digests(pa.array([text])).to_pylist()[0] for text in texts]
    assert len(set(together)) == len(set(texts))


def test_chinese_texts_of_one_different_character() -> None:
    one, other = digests(pa.array(["今天下雨，我们在家。", "今天下雪，我们在家。"])).to_pylist()
    assert one != other
