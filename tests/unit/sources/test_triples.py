"""Triples as sentences: templates, languages, documents about one subject, lines that are none."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.core.errors import ConfigError, RequestError
from llmyard.core.jobfile import parse_job
from llmyard.sources.config import Limits, Triples
from llmyard.sources.corpus import check_source, listing, plan, revision
from llmyard.sources.formats import triples as tables
from llmyard.sources.formats.triples import TRIPLES, escaped, unescaped, unescaped_column
from llmyard.sources.verbalising import Verbaliser
from llmyard.stages.config import job_adapter
from llmyard.text.script import language_by_script

TEMPLATES = {
    "lives_in": {"en": "{subject} lives in {object}.", "zh": ("{subject}住在{object}。", "{object}是{subject}的家。")},
    "职业": {"zh": "{subject}是一名{object}。"},
}
LINES = """\
马洛\tlives_in\t科拉镇
马洛\t职业\t厨师
马洛\t生日\t3月5日
Malo\tlives_in\tKora Town\t5\tdoc-1|doc-2
Malo\tborn_in\tBas Bay
Zel\t职业\tcook
"""


@pytest.fixture
def read_lines(tmp_path: Path, read_source: Any) -> Any:
    """Gives a function that reads text or bytes as a file of triples."""

    def read(
        data: str | bytes, name: str = "a.tsv", limits: Limits | None = None, parts: int = 64 << 20, **fields: Any
    ) -> Any:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return read_source(Triples(paths=(str(path),), **fields), limits, bytes_per_task=parts)

    return read


def test_neighbouring_lines_about_one_subject_make_a_document(read_lines: Any) -> None:
    found, bad = read_lines(LINES, templates=TEMPLATES)
    assert bad == []
    first = {"马洛住在科拉镇。", "科拉镇是马洛的家。"}
    assert found[0]["text"] in {f"{each}马洛是一名厨师。马洛的生日是3月5日。" for each in first}
    assert [row["text"] for row in found[1:]] == [
        "Malo lives in Kora Town. The born in of Malo is Bas Bay.", "The 职业 of Zel is cook.",
    ]  # fmt: skip
    assert [row["language"] for row in found] == ["zh", "en", "en"]
    assert {row["source"] for row in found} == {"triples"}
    assert [int(row["id"].rpartition("#")[2]) for row in found] == [
        LINES.encode().index(name.encode()) for name in ("马洛", "Malo", "Zel")
    ]


def test_without_groups_every_line_is_a_document(read_lines: Any) -> None:
    found, _ = read_lines(LINES, group=False)
    assert [row["text"] for row in found] == [
        "马洛的lives in是科拉镇。", "马洛的职业是厨师。", "马洛的生日是3月5日。", "The lives in of Malo is Kora Town.",
        "The born in of Malo is Bas Bay.", "The 职业 of Zel is cook.",
    ]  # fmt: skip


def test_the_language_is_named_or_that_of_the_subject(read_lines: Any) -> None:
    found, _ = read_lines("1984\t作者\t奥威尔\n42\tsquare\t1764\n", group=False)
    assert [row["text"] for row in found] == ["1984的作者是奥威尔。", "The square of 42 is 1764."]
    found, _ = read_lines(LINES, language="en", templates=TEMPLATES)
    assert {row["language"] for row in found} == {"en"}
    assert found[0]["text"].startswith("马洛 lives in 科拉镇. The 职业 of 马洛 is 厨师.")


def test_templates_are_taken_in_turn_by_a_hash_of_the_triple(read_lines: Any) -> None:
    lines = [f"甲{number}\tlives_in\t乙{number}\n" for number in range(400)]
    found, _ = read_lines("".join(lines), templates=TEMPLATES)
    one = {row["text"] for row in found if "住在" in row["text"]}
    assert 140 < len(one) < 260
    again, _ = read_lines("".join(reversed(lines)), templates=TEMPLATES)
    assert {row["text"] for row in again} == {row["text"] for row in found}


@pytest.mark.parametrize("rows", [3, 7, 1 << 16])
@pytest.mark.parametrize("block", [16, 50, 1 << 20])
def test_documents_do_not_depend_on_blocks(
    read_lines: Any, monkeypatch: pytest.MonkeyPatch, rows: int, block: int
) -> None:
    monkeypatch.setattr("llmyard.sources.verbalising._ROWS", rows)
    monkeypatch.setattr("llmyard.sources.formats.lines.BLOCK_BYTES", block)
    lines = "".join(f"s{at // 3}\tr{at}\to\n" for at in range(20))
    found, _ = read_lines(lines)
    assert [row["text"].count("The r") for row in found] == [3, 3, 3, 3, 3, 3, 2]
    assert found[2]["text"] == "The r6 of s2 is o. The r7 of s2 is o. The r8 of s2 is o."


def test_a_subject_with_many_lines_makes_several_documents(read_lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f"甲\t关系{at:02d}\t乙\n" for at in range(30))  # 9 characters each
    found, _ = read_lines(lines, document_characters=30)
    assert [len(row["text"]) for row in found] == [36, 27, 27, 36, 27, 27, 36, 27, 27]
    assert "".join(row["text"] for row in found) == "".join(f"甲的关系{at:02d}是乙。" for at in range(30))
    monkeypatch.setattr("llmyard.sources.verbalising._ROWS", 8)
    monkeypatch.setattr("llmyard.sources.formats.lines.BLOCK_BYTES", 40)
    capped, _ = read_lines(lines)
    assert len(capped) > 1  # what is held is bounded
    assert "".join(row["text"] for row in capped) == "".join(row["text"] for row in found)


def test_parts_of_a_file_hold_all_lines_once(read_lines: Any, tmp_path: Path) -> None:
    lines = "".join(f"s{at}\tr\to{at}\n" for at in range(50))
    whole, _ = read_lines(lines)
    parts, bad = read_lines(lines, parts=37)
    assert (parts, bad) == (whole, [])
    source = Triples(paths=(str(tmp_path / "a.tsv"),))
    assert len(plan([source], 10, 37)) > 5
    assert read_lines(gzip.compress(lines.encode()), "b.tsv.gz", parts=37)[0][7]["text"] == whole[7]["text"]


def test_lines_that_are_no_triples_are_set_aside(read_lines: Any) -> None:
    data = (
        "甲\t乙\n甲\t\t丙\n \t乙\t丙\n甲\t乙\t \n\n  \n甲\t乙\t丙\n".encode()
        + b"\xff\ta\tb\n"
        + b"x" * 80
        + b"\ta\tb\n"
    )
    found, bad = read_lines(data, limits=Limits(max_record_bytes=60))
    assert [row["text"] for row in found] == ["甲的乙是丙。"]
    assert [item.reason for item in sorted(bad, key=lambda item: item.offset)] == [
        "the line has 2 columns, a triple has 3",
        "the relation of the triple is empty",
        "the subject of the triple is empty",
        "the object of the triple is empty",
        "not UTF-8 at byte 0 of the line",
        "the record is 84 bytes long, over max_record_bytes = 60",
    ]
    assert all(item.offset == item.record for item in bad)
    assert bad[0].path.endswith("a.tsv")
    assert read_lines("") == ([], [])
    found, bad = read_lines(gzip.compress("".join(f"{at ** 3}\tr\t{at ** 5}\n" for at in range(9999)).encode())[:-999],
                            "c.tsv.gz", group=False)  # fmt: skip
    assert len(found) > 1000
    assert "cut short" in bad[0].reason


def test_a_table_of_a_graph_is_read_with_its_escapes(read_lines: Any) -> None:
    data = f"{TRIPLES}\r\na\\tb\\\\n\tr\tx\\py\t1\tdoc\n"
    for head in ("", "\ufeff"):
        for parts in (10, 1 << 20):
            found, bad = read_lines(head + data, parts=parts)
            assert ([row["text"] for row in found], bad) == (["The r of a\tb\\n is x|y."], [])
    found, _ = read_lines("a\\tb\tr\tC:\\new\n")  # a plain file has no escapes
    assert found[0]["text"] == "The r of a\\tb is C:\\new."
    found, bad = read_lines("# llmyard triples 2: more\na\tb\tc\n")
    assert found == []
    assert "triples of format 2, which this version does not know" in bad[0].reason


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet=st.sampled_from("\\tnr0p|\t\n\r\0a中"), max_size=8), min_size=1, max_size=5))
def test_both_ways_to_unescape_agree_and_undo(texts: list[str]) -> None:
    cells = [escaped(text) for text in texts]
    assert not any(sign in cell for cell in cells for sign in "\t\n\r\0|")
    assert [unescaped(cell) for cell in cells] == texts
    assert unescaped_column(pa.array(cells)).to_pylist() == texts
    odd = [text.replace("\n", "") for text in texts]  # cells that were written by others
    if not any("\0" in text for text in odd):
        assert unescaped_column(pa.array(odd)).to_pylist() == [unescaped(text) for text in odd]


NAMES = st.text(alphabet=st.sampled_from("aZ_ é中文·1，"), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAMES, st.sampled_from(["lives_in", "职业", "x_y"]), NAMES), max_size=12))
def test_sentences_are_what_the_templates_say(triples: list[tuple[str, str, str]]) -> None:
    verbaliser = Verbaliser(TEMPLATES)
    subjects, relations, objects = (pa.array([each[at] for each in triples], pa.string()) for at in range(3))
    chinese = verbaliser.chinese(subjects, objects)
    said = verbaliser.sentences((subjects, relations, objects), chinese).to_pylist()
    for (subject, relation, object_), is_chinese, sentence in zip(triples, chinese.tolist(), said, strict=True):
        asked = subject if any(sign.isalpha() for sign in subject) else object_
        assert is_chinese == (language_by_script(asked) == "zh")
        options = TEMPLATES.get(relation, {}).get("zh" if is_chinese else "en")
        if options is None:
            options = "{subject}的{relation}是{object}。" if is_chinese else "The {relation} of {subject} is {object}."
        shown = {"subject": subject, "relation": relation.replace("_", " "), "object": object_}
        assert sentence in {each.format(**shown) for each in ([options] if isinstance(options, str) else options)}
    alone = [
        verbaliser.sentences(tuple(pa.array([part]) for part in each), np.array([is_chinese])).to_pylist()[0]
        for each, is_chinese in zip(triples, chinese.tolist(), strict=True)
    ]
    assert alone == said


def test_a_part_of_the_documents_is_kept_by_their_ids(read_lines: Any) -> None:
    lines = "".join(f"s{at}\tr\to\n" for at in range(400))
    half, _ = read_lines(lines, share=0.5)
    assert 140 < len(half) < 260


def test_files_are_listed_and_missing_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\tc\n", encoding="utf-8")
    source = Triples(paths=(str(tmp_path / "a.tsv"), str(tmp_path / "no.tsv")))
    found = check_source(source)
    assert found is not None
    assert found[0] == ("paths", 1)
    assert isinstance(found[1], RequestError)
    source = Triples(paths=(str(tmp_path),))
    assert [size for _, size, _ in listing(source)] == [6]
    before = revision(source)
    monkeypatch.setattr("llmyard.sources.verbalising.REVISION", 99)
    assert revision(source) != before


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{subject} lives here.", "only with both {subject} and {object}"),
        ("{subject} {verb} {object}", "has the placeholder {verb}"),
        ("{subject} {object} }", "a curly bracket that is no placeholder's"),
    ],
)
def test_templates_that_say_nothing_are_refused_with_their_place(template: str, reason: str) -> None:
    job = "kind: prepare\noutput: a\nsources:\n  - kind: triples\n    paths: [x.tsv]\n"
    job += f"    templates: {{r: {{en: '{template}'}}}}\n"
    with pytest.raises(ConfigError) as caught:
        parse_job(job, "job.yaml", job_adapter(), ())
    assert reason in caught.value.what
    assert caught.value.what.startswith("job.yaml:6:")
    assert parse_job(job.replace(template, "{subject} {object}"), "job.yaml", job_adapter(), ())
    with pytest.raises(ConfigError, match=r"job\.yaml:6"):
        parse_job(job.replace("en:", "fr:").replace(template, "{subject} {object}"), "job.yaml", job_adapter(), ())


def test_versions_of_both_tables_are_known() -> None:
    assert [tables.version_of(line) for line in (tables.TRIPLES, tables.ENTITIES, "a\tb\tc", "# llmyard")] == [
        "", "", None, None,
    ]  # fmt: skip
