"""Fingerprints: what decides a result is in them, what does not is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.config import Config, Inert
from llmyard.core.fingerprint import canonical_json, fingerprint
from llmyard.sources.config import Files, ParallelText, Records, SmallWorldDocuments
from llmyard.sources.corpus import listing, revision
from llmyard.stages.config import job_adapter

PRETRAIN: dict[str, Any] = {
    "kind": "pretrain", "output": "base", "shards": "corpus", "steps": 5,
    "model": {"family": "gpt2", "layers": 2, "hidden_size": 64, "heads": 4},
}  # fmt: skip


def print_of(**changes: Any) -> str:
    return fingerprint(config=job_adapter().validate_python({**PRETRAIN, **changes}).decisive())


@pytest.mark.parametrize(
    "change",
    [{"resources": {"workers": 1}}, {"resources": {"max_failures": 9}}, {"checkpoint_every_steps": 7},
     {"log_every_steps": 3}, {"seed": 0}],
)  # fmt: skip
def test_what_does_not_change_the_result_does_not_change_the_fingerprint(change: dict[str, Any]) -> None:
    assert print_of(**change) == print_of()


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": 6}, {"output": "other"}, {"optimizer": {"learning_rate": 2e-3}}, {"sequence_length": 64},
     {"batch": {"size": 64}}, {"batch": {"size": 32, "micro_batch": 8}}, {"precision": "float32"},
     {"model": {"family": "gpt2", "layers": 3, "hidden_size": 64, "heads": 4}}, {"schedule": {"kind": "linear"}}],
)  # fmt: skip
def test_what_changes_the_result_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert print_of(**change) != print_of()


def test_an_inert_field_is_left_out_at_any_depth() -> None:
    class Inner(Config):
        kept: int = 1
        shown: Annotated[int, Inert()] = 2

    class Outer(Config):
        inner: tuple[Inner, ...] = (Inner(),)
        also: dict[str, Inner]
        maybe: Inner | None = Inner()
        quiet: Annotated[Inner, Inert()] = Inner()

    assert Outer(also={"a": Inner(kept=3)}).decisive() == {
        "inner": [{"kept": 1}],
        "also": {"a": {"kept": 3}},
        "maybe": {"kept": 1},
    }


def test_an_edited_source_file_changes_the_listing(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one", encoding="utf-8")
    os.utime(file, ns=(1, 1))
    source = Files(paths=(str(tmp_path),))
    before = listing(source)
    assert before == [[str(file), 3, 1]]
    file.write_text("two", encoding="utf-8")
    assert listing(source) != before
    os.utime(file, ns=(1, 1))
    assert listing(source) == before  # same size and time: taken as the same file, as documented
    (tmp_path / "b.txt").write_text("", encoding="utf-8")
    assert len(listing(source)) == 2


def test_every_kind_of_file_source_is_listed(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    paths = {name: str(tmp_path / name) for name in ("train", "validation", "test")}
    assert len(listing(Records(**paths))) == 3
    assert len(listing(ParallelText(paths=tuple(paths.values())))) == 3
    assert listing(SmallWorldDocuments()) == []


def test_the_generator_of_synthetic_data_is_part_of_the_fingerprint() -> None:
    assert len(revision(SmallWorldDocuments())) == 32
    assert revision(Files(paths=("x",))) == ""


PLAIN = st.one_of(st.integers(), st.text(), st.floats(allow_nan=False, allow_infinity=False), st.none(), st.booleans())


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=6))
def test_the_order_of_keys_does_not_matter(parts: dict[str, Any]) -> None:
    assert canonical_json(parts) == canonical_json(dict(reversed(parts.items())))


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint(x=float("nan"))
