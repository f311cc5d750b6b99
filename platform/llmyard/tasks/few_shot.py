"""A task asked of a model that was not tuned for it: some solved examples as plain text, then the question.

Brown et al. 2020, Language Models are Few-Shot Learners.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llmyard.core.seeds import mix
from llmyard.metrics.measure import Measure
from llmyard.tasks.labelling import Labelling
from llmyard.tasks.task import Choice, Decoding, EncodedExample, Labels, Marked, Output, Record, Task
from llmyard.tasks.writing import Writing
from llmyard.text.script import language_by_script
from llmyard.tokens.tokenizer import Tokenizer

# What stands before a text of a record, and before the answer.
_WORDS = {
    "en": {"question": "Question", "text": "Text", "answer": "Answer", "source": "Sentence", "subject": "First",
           "object": "Second", "query": "Question", "context": "Text", "text_pair": "Second text"},
    "zh": {"question": "问题", "text": "文本", "answer": "答案", "source": "句子", "subject": "前者",
           "object": "后者", "query": "问题", "context": "文本", "text_pair": "第二段文本"},
}  # fmt: skip
_ORDER = ("context", "text", "text_pair", "subject", "object", "source", "query", "question")
_TARGETS = {"en": {"zh": "Chinese", "en": "English"}, "zh": {"zh": "中文", "en": "英文"}}
_OPTIONS = {"en": "Answer with one of: {}", "zh": "请从下列选项中选一个回答：{}"}


class FewShot:
    """A task's questions in plain text.

    A label is chosen by how likely each is behind the question, by the mean over its tokens so that long names are not
    the less likely for it; what is written ends with the line.

    Args:
        task: For models that write.
        shots: Solved examples, the same before every question.
        room: Tokens that the model reads; the first examples are left out where they do not fit.
    """

    revision = 1
    output: Output = "text"

    def __init__(self, task: Task, shots: Sequence[Record], room: int) -> None:
        assert isinstance(task, Writing)
        self._task, self._room = task, room
        self._shots = [case for record in shots for case in task.cases(record)][: len(shots)]
        self._options: list[str] = []
        self.name, self.metric = task.name, task.metric

    @property
    def options(self) -> list[str] | None:
        """The labels to choose from, as the solved examples and the task's data have them; None of a free answer."""
        return self._options if isinstance(self._task, Labelling) else None

    def learn_options(self, records: Sequence[Record]) -> None:
        """Takes note of the labels that occur in a task's training examples."""
        if isinstance(self._task, Labelling):
            self._options = sorted({self._task.label(record) for record in records})

    def check(self, record: Record) -> Record:
        """Returns the record if it fits the task's schema."""
        return self._task.check(record)

    def cases(self, record: Record) -> list[Record]:
        """Returns the task's cases."""
        return self._task.cases(record)

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Nothing is learned."""
        return {}

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Nothing is learned."""
        return [None for _ in records]

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Nothing is labelled."""
        return []

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the solved examples and the question, up to where the answer begins."""
        question = tokenizer.encode(_asked(record))
        room = self._room - len(question) - self.decoding({}).max_new_tokens
        shots: list[list[int]] = []
        for shot in reversed(self._shots):
            solved = tokenizer.encode(f"{_asked(shot)} {self._task.target(shot)}\n\n")
            if sum(map(len, shots)) + len(solved) > room:
                break
            shots.insert(0, solved)
        ids = [id_ for shot in shots for id_ in shot] + question
        return ids[max(0, len(ids) - self._room) :]

    def excess(self, record: Record, tokenizer: Tokenizer) -> tuple[int, int]:
        """Returns by how many tokens a question is too long without any solved example, and how many it may have."""
        room = self._room - self.decoding({}).max_new_tokens
        return len(tokenizer.encode(_asked(record))) - room, room

    def text(self, record: Record) -> str:
        """Returns the prompt as text, for a model behind a URL: it ranks no options, so labels are listed for it."""
        solved = "".join(f"{_asked(shot)} {self._task.target(shot)}\n\n" for shot in self._shots)
        if not self.options:
            return solved + _asked(record)
        listed = _OPTIONS[_language(record)].format(", ".join(self.options))
        return f"{listed}\n\n{solved}{_asked(record)}"

    def choices(self, record: Record) -> list[str] | None:
        """Returns the labels to choose from; None of a free answer."""
        return [f" {option}" for option in self.options] if self.options is not None else None

    def decoding(self, labels: Labels) -> Decoding:
        """Returns the task's length of an answer."""
        return Decoding(max_new_tokens=self._task.decoding({}).max_new_tokens)

    def then(self, record: Record, answer: Any) -> Record | None:
        """Nothing more is asked."""
        return None

    def prediction(self, record: Record, answer: Any) -> Any:
        """Returns what was chosen, or the first line of what was written."""
        line = str(answer).strip().partition("\n")[0].strip()
        if self.options and line not in self.options:  # a model behind a URL says more than the label, or in capitals
            said = line.casefold()
            named = [each for each in self.options if re.search(rf"(?<!\w){re.escape(each.casefold())}(?!\w)", said)]
            line = named[0] if len(named) == 1 else line
        return self._task.prediction(record, line)

    def measures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns the task's measures."""
        return self._task.measures(predictions, records)

    def figures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, float]:
        """Returns the task's figures."""
        return self._task.figures(predictions, records)

    def signatures(self, records: Sequence[Record]) -> dict[str, str]:
        """Returns the task's signatures."""
        return self._task.signatures(records)

    def bucket(self, prediction: Any, record: Record) -> str:
        """Returns the task's kind of error."""
        return self._task.bucket(prediction, record)

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns a label drawn for each question; of free answers, what the baseline learns of the solved ones."""
        if self.options is None:
            return self._task.baseline(self._shots or train[:1], test)
        return "chance", [Choice(self.options[mix(11, at) % len(self.options)]) for at in range(len(test))]


def _asked(record: Record) -> str:
    """Returns a record as lines of plain text that end where the answer begins."""
    language = _language(record)
    words = _WORDS[language]
    lines = []
    for field in _ORDER:
        value = record.get(field)
        text = value.get("text") if isinstance(value, dict) else value
        if text:
            lines.append(f"{words[field]}: {text}")
    answer = words["answer"]
    if "target_language" in record:
        answer = _TARGETS[language][record["target_language"]]
    return "\n".join([*lines, f"{answer}:"])


def _language(record: Record) -> str:
    """Returns the language that a record is asked in: its own where there are words of it here, else English."""
    named = str(record.get("language") or language_by_script(_first_text(record)))
    return named if named in _WORDS else "en"


def _first_text(record: Record) -> str:
    return next((str(record[field]) for field in _ORDER if isinstance(record.get(field), str)), "")
