"""Job files: every error at once with its place, choices and nearest spelling; nothing else ever escapes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import ConfigError, RequestError
from llmyard.core.jobfile import load_job, parse_job
from llmyard.core.positions import read_yaml
from llmyard.stages.config import Pipeline, job_adapter

QUICKSTART = (Path(__file__).parents[3] / "jobs" / "quickstart.yaml").read_text(encoding="utf-8")
PRETRAIN = """\
kind: pretrain
output: base
shards: corpus
model: {family: gpt2, layers: 2, hidden_size: 64, heads: 4}
steps: 5
"""


def parse(text: str, *overrides: str) -> Any:
    return parse_job(text, "job.yaml", job_adapter(), overrides)


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, *overrides)
    return caught.value.what.splitlines()


def test_every_error_is_reported_at_once_at_its_line_and_column() -> None:
    text = PRETRAIN.replace("steps: 5", "steps: many\nsequence_lenght: 128").replace("layers: 2", "layers: 0")
    found = errors(text)
    assert [line.split(": ")[0] for line in found] == ["job.yaml:4:31", "job.yaml:5:8", "job.yaml:6:1"]
    assert "model.layers" in found[0]
    assert "'many'" in found[1]
    assert "did you mean 'sequence_length'?" in found[2]


def test_an_unknown_field_names_what_is_accepted() -> None:
    (line,) = errors(PRETRAIN.replace("heads: 4", "head: 4"))
    assert line.startswith("job.yaml:4:")
    assert "did you mean 'heads'?" in line
    assert "accepted:" in line
    assert "hidden_size" in line


def test_an_unknown_kind_names_the_kinds_and_the_nearest() -> None:
    (line,) = errors(PRETRAIN.replace("kind: pretrain", "kind: pretrian"))
    assert line.startswith("job.yaml:1:7: ")
    assert "did you mean 'pretrain'?" in line
    assert "evaluate" in line


def test_a_wrong_choice_names_the_accepted_values() -> None:
    (line,) = errors(PRETRAIN + "precision: floot16\n")
    assert line.startswith("job.yaml:6:12: precision: 'floot16' is not accepted; did you mean 'float16'?")
    assert "auto, float32, bfloat16, float16" in line


def test_a_missing_field_is_named() -> None:
    (line,) = errors(PRETRAIN.replace("shards: corpus\n", ""))
    assert "shards: required, but not given" in line


def test_a_rule_between_fields_is_explained() -> None:
    (line,) = errors(PRETRAIN + "batch: {size: 30, micro_batch: 16}\n")
    assert "batch size 30 is not a multiple of the micro_batch 16" in line
    assert line.startswith("job.yaml:6:8")


def test_errors_of_nested_stages_name_the_stage() -> None:
    text = QUICKSTART.replace(
        "layers: 2, hidden_size: 128, heads: 4}\n    sequence", "layers: 2, heads: 5}\n    sequence"
    )
    (line,) = errors(text)
    assert "stages.1.model" in line
    assert "not a multiple of heads 5" in line


def test_a_key_that_stands_twice_is_refused_with_both_places() -> None:
    (line,) = errors(PRETRAIN + "steps: 9\n")
    assert line == "job.yaml:6:1: steps: stands twice (first at line 5)"


@pytest.mark.parametrize(
    "text",
    ["kind: [pretrain", "a: b: c", "kind: 'pretrain", "\tkind: pretrain", "%", "a\x00b", "a: *nowhere",
     "kind: !!python/object:os.x {}", "---\na: 1\n---\nb: 2", "when: 2026-13-45", f"n: {'9' * 5000}", "a: &x [*x]",
     "[" * 3000],
)  # fmt: skip
def test_text_that_is_not_yaml_is_a_config_error_with_a_place(text: str) -> None:
    found = errors(text)
    assert found[0].startswith("job.yaml")
    assert len(found[0]) < 400


@pytest.mark.parametrize(("text", "said"), [("", "nothing"), ("- a\n- b\n", "list"), ("hello", "str"), ("3", "int")])
def test_a_file_that_is_no_mapping_says_what_it_is(text: str, said: str) -> None:
    assert said in errors(text)[0]


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(QUICKSTART, encoding="utf-8")
    with pytest.raises(RequestError, match=r"did you mean 'quickstart\.yaml'"):
        load_job(tmp_path / "quickstrat.yaml", job_adapter())


def test_a_file_that_is_not_utf8_is_a_request_error(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes("名字".encode("gb18030"))
    with pytest.raises(RequestError, match="UTF-8"):
        load_job(tmp_path / "job.yaml", job_adapter())


def test_a_folder_in_place_of_the_file_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        load_job(tmp_path, job_adapter())


def test_overrides_go_by_index_and_by_output_name() -> None:
    job = parse(QUICKSTART, "stages.1.steps=7", "stages.translator.optimizer.learning_rate=1e-4", "stages.base.seed=5")
    assert isinstance(job, Pipeline)
    assert (job.stages[1].steps, job.stages[1].seed) == (7, 5)  # type: ignore[union-attr]
    assert job.stages[3].optimizer.learning_rate == 1e-4  # type: ignore[union-attr]


def test_an_override_makes_the_mappings_on_its_way() -> None:
    assert parse(PRETRAIN, "batch.size=64", "resources.workers=1").batch.size == 64


def test_an_override_takes_lists_and_mappings() -> None:
    job = parse(QUICKSTART, "stages.4.splits=[validation]", "stages.2.data={kind: smallworld, train: 9}")
    assert job.stages[4].splits == ("validation",)
    assert job.stages[2].data.train == 9


def test_the_last_of_two_overrides_wins() -> None:
    assert parse(PRETRAIN, "steps=3", "steps=4").steps == 4


def test_an_error_in_an_override_names_the_override() -> None:
    (line,) = errors(PRETRAIN, "steps=many")
    assert line.startswith("--set steps=many: steps: ")
    (line,) = errors(PRETRAIN, "model.layer=3")
    assert line.startswith("--set model.layer=3: ")
    assert "did you mean 'layers'?" in line


@pytest.mark.parametrize(
    ("override", "said"),
    [("steps", "path.to.field=value"), ("=5", "path.to.field=value"), ("steps.more=5", "steps"),
     ("stages.nosuch.steps=5", "one of: smallworld, base"), ("stages.99.steps=5", "no item '99'"),
     ("stages.².steps=5", "no item"), ("stages.-1.steps=5", "no item"), ("stages=5", "stages")],
)  # fmt: skip
def test_an_override_that_leads_nowhere_is_a_config_error(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(QUICKSTART, override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [("3e-4", 3e-4), ("1E3", 1000.0), (".5", 0.5), ("-2.5e+3", -2500.0), ("7", 7), ("no", "no"), ("yes", "yes"),
     ("on", "on"), ("true", True), ("False", False), ("null", None), ("~", None), ("1.2.3", "1.2.3"), ("e3", "e3"),
     ("'5'", "5"), ("中文", "中文"), ("v1", "v1")],
)  # fmt: skip
def test_scalars_are_read_as_people_mean_them(written: str, value: object) -> None:
    read = read_yaml(f"x: {written}").data["x"]
    assert read == value
    assert type(read) is type(value)


def test_chinese_text_keeps_its_place_and_value() -> None:
    text = "kind: prepare\noutput: 语料\nsources:\n  - {kind: files, name: 三国演义, paths: [数据/三国.txt], 名: 1}\n"
    found = errors(text)
    assert len(found) == 2
    assert found[0].startswith("job.yaml:2:9: output: '语料' cannot be an artifact's name")
    # Columns count characters, as editors do.
    column = text.splitlines()[3].index("名: 1") + 1
    assert found[1].startswith(f"job.yaml:4:{column}: sources.0.名: unknown field")
    job = parse(text.replace("output: 语料", "output: corpus").replace(", 名: 1", ""))
    assert job.sources[0].name == "三国演义"
    assert job.sources[0].paths == (str(Path("数据/三国.txt").absolute()),)


def test_every_ready_job_validates() -> None:
    for file in sorted((Path(__file__).parents[3] / "jobs").glob("**/*.yaml")):
        load_job(file, job_adapter())


SNIPPETS = [
    "", ":", "- ", "{", "}", "[", "]", "'", '"', "\n", "  ", "\t", "&a ", "*a", "!!int ", "null", "-1", "0", "1e400",
    "%", "nan", ".inf", "9" * 400, "kind: ", "steps: ", "中", "\ud7ff", "\x07", "2026-13-01", "? ", "| ", "<<: ",
    "!!float ",
]  # fmt: skip
PATHS = [
    "stages.0.splits", "stages.1.steps", "stages.base.model", "stages.0.sources.0.seed", "name", "kind",
    "stages.2.data", "stages.1.optimizer.betas", "stages",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The quickstart's text with a few cuts, insertions, doubled and swapped lines."""
    text = QUICKSTART
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 4)):
            case 0:
                text = text[:at] + text[at + draw(st.integers(1, 12)) :]
            case 1:
                text = text[:at] + draw(st.sampled_from(SNIPPETS)) + text[at:]
            case 2:
                text = text[:at] + draw(st.text(max_size=5)) + text[at:]
            case 3:
                lines = text.splitlines(keepends=True) or [""]
                line = draw(st.integers(0, len(lines) - 1))
                text = "".join([*lines[: line + 1], lines[line], *lines[line + 1 :]])
            case _:
                words = [match.span() for match in re.finditer(r"[\w.-]+", text)] or [(0, 0)]
                low, high = draw(st.sampled_from(words))
                text = text[:low] + draw(st.sampled_from([*SNIPPETS, "true", "[]", "{}", "x"])) + text[high:]
    return text


@settings(max_examples=250, deadline=None)
@given(mutated())
def test_a_mutated_job_is_valid_or_a_config_error_with_a_place(text: str) -> None:
    refused: ConfigError | None = None
    try:
        job = parse(text)
    except ConfigError as error:
        refused = error
    if refused is None:
        assert job_adapter().validate_python(job.model_dump()) == job
    else:
        assert refused.remedy
        assert all(line.startswith("job.yaml") for line in refused.what.splitlines() if line.strip())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PATHS), st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=20)))
def test_any_override_is_valid_or_a_config_error(path: str, value: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(QUICKSTART, f"{path}={value}")
