"""Language identification: twelve languages and more, short texts, mixed texts, single lines."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from llmyard.text.config import Language
from llmyard.text.language import identify, judge_language, keep_lines

LINGUA = Path(__file__).resolve().parents[4] / "shared/data/lingua_langid"
CHINESE = "安娜于一九八四年搬到河镇，在那里开了一家小面包店。"
ENGLISH = "Anna moved to Riverton in 1984 and opened a small bakery there."
FRENCH = "Anna a déménagé à la campagne en 1984 et y a ouvert une petite boulangerie."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (CHINESE, "zh"),
        ("東風夜放花千樹，更吹落，星如雨。", "zh"),
        ("超市の商品很便宜，大家都喜欢去那里买东西。", "zh"),
        ("アンナは小さなパン屋を開いた。", "ja"),
        ("안나는 작은 빵집을 열었다.", "ko"),
        ("Анна открыла небольшую пекарню в городе.", "ru"),
        ("Анна відкрила невелику пекарню в нашому місті.", "uk"),
        ("افتتحت آنا مخبزًا صغيرًا في المدينة القديمة.", "ar"),
        ("آنا یک نانوایی کوچک در شهر باز کرد.", "fa"),
        ("अन्ना ने शहर में एक छोटी बेकरी खोली।", "hi"),
        ("Η Άννα άνοιξε έναν μικρό φούρνο.", "el"),
        ("อันนาเปิดร้านเบเกอรี่เล็ก ๆ", "th"),
        ("אנה פתחה מאפייה קטנה בעיר.", "he"),
        (ENGLISH, "en"),
        (ENGLISH.upper(), "en"),
        (FRENCH, "fr"),
        ("Anna zog 1984 aufs Land und eröffnete dort eine kleine Bäckerei.", "de"),
        ("Anna se mudó al campo en 1984 y abrió una pequeña panadería.", "es"),
        ("Anna mudou-se para o campo em 1984 e abriu uma pequena padaria lá.", "pt"),
        ("Anna si trasferì in campagna e vi aprì un piccolo panificio.", "it"),
        ("Anna chuyển về nông thôn và mở một tiệm bánh nhỏ ở đó.", "vi"),
        ("Anna verhuisde naar het platteland en opende er een kleine bakkerij.", "nl"),
        ("Anna przeprowadziła się na wieś i otworzyła tam małą piekarnię.", "pl"),
        ("1234 5678 !?", ""),
        ("", ""),
    ],
)
def test_each_language_is_recognised(text: str, language: str) -> None:
    found = identify(pa.array([text]))
    assert found.language.to_pylist() == [language]
    confidence = found.confidence[0].as_py()
    assert 0.5 < confidence <= 1 if language else confidence == 0


def test_a_column_gives_the_same_as_its_single_texts() -> None:
    texts = [CHINESE, "", FRENCH, ENGLISH * 50, CHINESE * 50, ENGLISH + CHINESE]
    whole = identify(pa.chunked_array([texts[:2], texts[2:]]))
    single = [identify(pa.array([text])) for text in texts]
    assert whole.language.to_pylist() == [each.language[0].as_py() for each in single]
    assert whole.confidence.to_pylist() == [each.confidence[0].as_py() for each in single]
    assert identify(pa.array(["x", *texts]).slice(1)).language.equals(whole.language)
    assert identify(pa.array([], pa.string())).language.to_pylist() == []


def test_a_mixed_text_names_both_languages() -> None:
    found = identify(pa.array(["我们用 PyTorch distributed data parallel 来训练这个大模型，效果很好。"]))
    assert (found.language[0].as_py(), found.second[0].as_py()) == ("zh", "en")
    assert found.confidence[0].as_py() + found.second_share[0].as_py() == pytest.approx(1, abs=0.01)


def judged(text: str, **config: object) -> str | None:
    reason: str | None = judge_language(identify(pa.array([text])), Language.model_validate(config))[0].as_py()
    return reason


def test_texts_of_other_languages_are_dropped_and_mixed_ones_kept() -> None:
    assert judged(CHINESE) is None
    assert judged(ENGLISH) is None
    assert judged("1234") is None
    assert judged(FRENCH) == "other_language"
    assert judged(ENGLISH, wanted=["zh"]) == "other_language"
    assert judged(ENGLISH + CHINESE, wanted=["zh"]) is None
    assert judged(ENGLISH + CHINESE, wanted=["en"]) is None
    assert judged("Es la hora", min_confidence=1.0, wanted=["es"]) == "unsure_language"


def test_lines_of_other_languages_are_dropped_and_short_or_mixed_ones_kept() -> None:
    mixed = "Это слово — " + CHINESE
    text = "\n".join([CHINESE, FRENCH, "Bonjour à tous", "", mixed, ENGLISH])
    lines = keep_lines(pa.chunked_array([[text, FRENCH], [ENGLISH, ""]]), Language())
    assert lines.texts.to_pylist() == ["\n".join([CHINESE, "Bonjour à tous", "", mixed, ENGLISH]), "", ENGLISH, ""]
    assert lines.dropped == 2
    untouched = pa.array([CHINESE])
    assert keep_lines(untouched, Language()).texts is untouched


@pytest.mark.skipif(not LINGUA.exists(), reason=f"{LINGUA} is missing")
@pytest.mark.parametrize(("cut", "wanted"), [(1000, 0.99), (40, 0.97)])
def test_accuracy_on_the_sentences_of_twelve_languages(cut: int, wanted: float) -> None:
    accuracy = {}
    for file in LINGUA.glob("??.txt"):
        sentences = pa.array([line[:cut] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()])
        accuracy[file.stem] = pc.mean(pc.equal(identify(sentences).language, file.stem)).as_py()
    assert len(accuracy) == 12
    assert sum(accuracy.values()) / 12 >= wanted, accuracy
    assert min(accuracy["zh"], accuracy["en"]) >= 0.98
