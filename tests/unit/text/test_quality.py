"""Quality rules: each reason is given for what it names, in both languages, and good text is kept."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from llmyard.text.clean import SCHEMA, clean
from llmyard.text.config import Cleaning, Quality
from llmyard.text.normalize import normalize
from llmyard.text.quality import han_share, judge
from llmyard.text.statistics import statistics

CHINESE = "安娜于一九八四年搬到河镇，在那里开了一家小面包店，生意一直很好。"
ENGLISH = "Anna moved to Riverton in 1984 and opened a small bakery there."


def reason(text: str, **rules: Any) -> str | None:
    return judge(pa.array([text]), Quality(**rules))[0].as_py()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        ENGLISH,
        "The café’s owner smiled at the two of us and said nothing.",
        "He called it “passé”… and left the room at once.",
        "Le café—le meilleur de la ville—était fermé depuis l’été.",
        "À la fin, l’âge s’acheva; “où çà?” demanda-t-il à l’hôtel.",
        "他说：“引号”——还有破折号……都应当保留，《书名号》也一样。",
        "Er sagte: „Käse“ – und ging über die Straße nach Hause.",
    ],
)
def test_good_text_is_kept(text: str) -> None:
    assert reason(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("太短", "too_short"),
        ("", "too_short"),
        (ENGLISH[:19], "too_short"),
        (CHINESE.encode().decode("latin-1"), "wrong_decoding"),
        (CHINESE.encode().decode("cp1252", "replace"), "wrong_decoding"),
        (CHINESE.encode().decode("gb18030", "replace"), "wrong_decoding"),
        ("It’s a “fine” day, isn’t it? “Yes,” she said.".encode().decode("cp1252", "replace"), "wrong_decoding"),
        ("It’s a “fine” day, isn’t it? “Yes,” she said.".encode().decode("latin-1"), "wrong_decoding"),
        ("Un café crème et un thé glacé, s'il vous plaît.".encode().decode("cp1252"), "wrong_decoding"),
        ("锟斤拷锟斤拷" + CHINESE, "wrong_decoding"),
        ("<div><span><b>字</b></span></div><div><span><b>字</b></span></div>", "markup"),
        ("12345 67890 --- 12345 67890 --- 1", "few_letters"),
        ("，，，，。。。。！！！！？？？？；；；；：：：：", "few_letters"),
    ],
)
def test_bad_text_gets_its_reason(text: str, wanted: str) -> None:
    assert reason(text) == wanted


def test_wrong_decoding_is_found_after_normalising_too() -> None:
    for encoding in ("latin-1", "cp1252", "gb18030"):
        text = normalize(pa.array([CHINESE.encode().decode(encoding, "replace")]))
        assert judge(text, Quality()).to_pylist() == ["wrong_decoding"]


def test_limits_are_taken_from_the_rules() -> None:
    assert reason("四个汉字", min_characters=4) is None
    assert reason(CHINESE, max_characters=10) == "too_long"
    assert reason("1" * 30, min_letter_share=0.0) is None


def test_the_share_of_chinese_is_of_all_letters() -> None:
    assert han_share(statistics(pa.array(["中文ab", "中文", "123", ""]))).tolist() == [0.5, 1.0, 0.0, 0.0]


def table(*texts: str, language: str = "") -> pa.Table:
    count = len(texts)
    columns = {"id": [str(index) for index in range(count)], "text": list(texts), "source": ["s"] * count}
    columns |= {"language": [language] * count, "url": [""] * count}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def test_cleaning_counts_and_samples_what_it_drops() -> None:
    cleaned = clean(table("短", CHINESE, ENGLISH, "short", "x"), Cleaning(clean=("normalize", "quality")))
    assert cleaned.kept["text"].to_pylist() == [CHINESE, ENGLISH]
    assert cleaned.kept["language"].to_pylist() == ["zh", "en"]
    assert cleaned.kept.schema == SCHEMA
    assert cleaned.counts["dropped_too_short"] == 3
    assert [sample.id for sample in cleaned.samples["too_short"]] == ["0", "3", "4"]
    assert [sample.text for sample in cleaned.samples[""]] == [CHINESE, ENGLISH]
    assert cleaned.funnel["read", "documents", "s", "en"] == 3
    assert cleaned.funnel["quality", "documents", "s", "zh"] == 1
    assert cleaned.funnel["quality", "characters", "s", "zh"] == len(CHINESE)
    assert len(cleaned.units.offsets) == 3


def test_a_known_language_is_kept_and_steps_are_optional() -> None:
    cleaned = clean(table("短\r\n", language="en"), Cleaning(clean=()))
    (row,) = cleaned.kept.drop_columns("digest").to_pylist()
    assert row == {"id": "0", "text": "短\r\n", "source": "s", "language": "en", "url": "", "units": 1}


def test_cleaning_no_documents_gives_none() -> None:
    cleaned = clean(table(), Cleaning(clean=("normalize", "quality")))
    assert len(cleaned.kept) == 0
    assert {key: count for key, count in cleaned.counts.items() if count} == {}
