"""Steps of cleaning together: own functions, decontamination, and the order of steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from llmyard.core.errors import RequestError
from llmyard.text.clean import clean
from llmyard.text.config import Cleaning
from llmyard.text.examples import texts_of
from llmyard.text.functions import function_of, source_of

ENGLISH = "In the spring of that year the miller of the village sold his donkey to a stranger and bought a boat."
CHINESE = "那一年春天，村里的磨坊主把他的驴卖给了一个从海边来的陌生人，自己买了一条旧船，从此再也没有回到山里去。"
OTHER = (
    "Nobody in the harbour could say where the boat had come from, nor who had painted its name on both of its sides."
)


def documents(*texts: str) -> pa.Table:
    count = len(texts)
    columns = {"id": [str(at) for at in range(count)], "text": list(texts), "source": ["s"] * count}
    return pa.table({**columns, "language": [""] * count, "url": [""] * count})


def kept(config: Cleaning, *texts: str) -> list[str]:
    return clean(documents(*texts), config).kept["text"].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "txt"])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_texts_that_hold_a_test_passage_are_dropped(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"test.{suffix}"
    record = {"question": {"context": ["short", text]}}
    path.write_text(text if suffix == "txt" else json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    config = Cleaning.model_validate({"clean": ["decontaminate"], "decontaminate": {"paths": [str(path)]}})
    # Punctuation and case differ, a part is missing: the passage is the same.
    quoted = "He wrote: " + text[8:].upper().replace(",", ";").replace("，", "；") + " And that was all."
    assert kept(config, OTHER, quoted, CHINESE[:9] + OTHER) == [OTHER, CHINESE[:9] + OTHER]


def test_evaluation_texts_that_are_missing_or_no_json_are_refused(tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"text": "x"}\n{"te', encoding="utf-8")
    for path, said in ((tmp_path / "none.txt", "cannot read"), (torn, "is not JSON")):
        config = Cleaning.model_validate({"clean": ["decontaminate"], "decontaminate": {"paths": [str(path)]}})
        with pytest.raises(RequestError, match=said):
            kept(config, ENGLISH)


FILTER = """
def without_boats(table):
    return ["boat" if "boat" in text else None for text in table["text"].to_pylist()]

def too_few(table):
    return ["x"]

numbers = 5
"""


@pytest.fixture
def filters(tmp_path: Path) -> Path:
    path = tmp_path / "filters.py"
    path.write_text(FILTER, encoding="utf-8")
    return path


def test_a_function_of_ones_own_drops_with_its_reason(filters: Path) -> None:
    config = Cleaning.model_validate({"clean": ["functions"], "functions": [f"{filters}:without_boats"]})
    cleaned = clean(documents(ENGLISH, CHINESE, OTHER), config)
    assert cleaned.kept["id"].to_pylist() == ["1"]
    assert cleaned.counts["dropped_boat"] == 2
    assert "without_boats" in source_of(f"{filters}:without_boats")


@pytest.mark.parametrize(
    ("name", "said"),
    [("too_few", "gave 1 reasons for 2"), ("numbers", "is a int, not a function"), ("absent", "cannot import")],
)
def test_functions_that_cannot_be_used_are_refused(filters: Path, name: str, said: str) -> None:
    config = Cleaning.model_validate({"clean": ["functions"], "functions": [f"{filters}:{name}"]})
    with pytest.raises(RequestError, match=said):
        kept(config, ENGLISH, OTHER)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clean": ["deduplicate", "quality"]}, "deduplicate is the last step"),
        ({"clean": ["quality", "quality"]}, "stands twice"),
        ({"clean": ["toxicity"]}, "needs its field `toxicity`"),
        ({"clean": ["urls"]}, "needs its field `urls`"),
        ({"clean": ["decontaminate"]}, "needs its field `decontaminate`"),
        ({"functions": ["no_colon"]}, "package.module:function"),
    ],
)
def test_steps_that_do_not_fit_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Cleaning.model_validate(fields)


def test_all_steps_leave_good_texts_as_they_were() -> None:
    steps = ["encoding", "html", "normalize", "language", "lines", "boilerplate", "quality", "privacy", "deduplicate"]
    quality = {"gopher": {"min_words": 10, "min_characters_zh": 10}, "repetition": {}, "fineweb": {}}
    config = Cleaning.model_validate({"clean": steps, "quality": quality})
    cleaned = clean(documents(ENGLISH, CHINESE, OTHER), config)
    assert cleaned.kept["text"].to_pylist() == [ENGLISH, CHINESE, OTHER]
    assert cleaned.kept["language"].to_pylist() == ["en", "zh", "en"]
    assert [key[0] for key in cleaned.funnel if key[1:] == ("documents", "s", "zh")] == ["read", *steps[:-1]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def f(:\n", r"SyntaxError: .*own\.py, line 1"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("raise SystemError('no')\n", "SystemError: no"),
    ],
)
def test_a_filters_file_that_does_not_run_is_a_wrong_request(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "own.py").write_text(content, encoding="utf-8")
    for use in (function_of, source_of):
        with pytest.raises(RequestError, match=said):
            use(f"{tmp_path}/own.py:f")


def test_all_of_a_filters_file_decides_what_it_does(tmp_path: Path) -> None:
    texts = []
    for name, limit in (("one", 3), ("two", 4)):
        (tmp_path / f"{name}.py").write_text(f"LIMIT = {limit}\n\ndef f(table):\n    return [None] * LIMIT\n")
        texts.append(source_of(f"{tmp_path}/{name}.py:f"))
    assert texts[0] != texts[1]  # the function's own lines are the same


def test_a_function_without_source_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match="not written in Python"):
        source_of("math:sqrt")
    with pytest.raises(RequestError, match="no 'absent'"):
        source_of("math:absent")


def test_lists_and_texts_are_named_with_variables_or_file_and_may_be_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOO", str(tmp_path))
    with pa.output_stream(str(tmp_path / "test.jsonl.gz"), compression="gzip") as stream:
        stream.write(json.dumps({"text": ENGLISH}).encode())
    for path in ("$FOO/test.jsonl.gz", f"file://{tmp_path}/test.jsonl.gz"):
        config = Cleaning.model_validate({"clean": ["decontaminate"], "decontaminate": {"paths": [path]}})
        assert config.files() == [f"{tmp_path}/test.jsonl.gz"]
        assert kept(config, OTHER, f"Quoted: {ENGLISH}") == [OTHER]
    assert texts_of(["$FOO/test.jsonl.gz".replace("$FOO", str(tmp_path))]).to_pylist() == [ENGLISH]
    with pytest.raises(ValidationError, match="NO_SUCH is not set"):
        Cleaning.model_validate({"clean": ["decontaminate"], "decontaminate": {"paths": ["$NO_SUCH/x"]}})
