"""What of a long text is read for a question, in both languages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Summarization
from llmyard.tasks.floors import sentence_spans
from llmyard.tasks.focus import focused
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import Tokenizer

FILLER = "It was cold outside. Nobody said a word. "
ENGLISH = FILLER * 9 + "Then we spoke of microphones. They cost too much. Nobody liked that. " + FILLER * 9
CHINESE = "外面很冷。没有人说话。" * 9 + "后来谈到了麦克风。价格太高。大家都不满意。" + "外面很冷。没有人说话。" * 9


def test_the_sentences_that_are_asked_about_are_kept_with_their_neighbours() -> None:
    found = focused(ENGLISH, "What did they say of microphones?", "en", 110)
    assert "Then we spoke of microphones. They cost too much." in found
    assert len(found) <= 110
    said = focused(CHINESE, "关于麦克风说了什么？", "zh", 24)
    assert "后来谈到了麦克风。价格太高。" in said
    assert len(said) <= 24


def test_a_short_text_is_read_as_it_stands() -> None:
    assert focused("A  b.\n\nC.", "c", "en", 100) == "A  b.\n\nC."


@given(
    st.lists(st.text("abc 好的。.?\n", max_size=30), max_size=8).map("".join),
    st.text("abc好", max_size=6),
    st.integers(5, 60),
)
def test_what_is_kept_stands_in_the_text_in_its_order(text: str, query: str, characters: int) -> None:
    for language in ("en", "zh"):
        found = focused(text, query, language, characters)
        if found == text:
            continue
        left = iter(text)
        assert all(character in left for character in "".join(found.split()))  # a subsequence
        longest = max((high - low for low, high in sentence_spans(text)), default=0)
        assert len(found) <= max(characters, longest)


def test_the_prompt_of_a_summary_holds_what_is_asked_about() -> None:
    tokenizer = Tokenizer.train([ENGLISH, CHINESE], BpeTokenizer(vocab_size=500, split_han=True))
    task = task_of(Summarization(max_source_tokens=100, focus_characters=200), "transformer")
    for text, query, language in ((ENGLISH, "What of microphones?", "en"), (CHINESE, "麦克风怎么样？", "zh")):
        record = {"text": text, "query": query, "summary": "x", "language": language}
        said = tokenizer.decode(task.prompt(task.check(record), tokenizer))
        assert ("microphones. They cost" in said) or ("麦克风。价格太高" in said)
