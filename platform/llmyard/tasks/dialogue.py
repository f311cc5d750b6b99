"""Conversations of several turns: the next reply, or what the user wants so far, as slots with values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmyard.metrics.measure import Measure, by_group, f1_of, mean, precision_of
from llmyard.tasks.chat_template import ChatTemplate
from llmyard.tasks.config import LLMYARD, Dialogue, Instruction, Preference
from llmyard.tasks.task import BadExample, Decoding, EncodedExample, Form, Labels, Marked, Output, Record, Task, need
from llmyard.text.script import language_by_script
from llmyard.tokens.tokenizer import ASSISTANT, SEPARATOR, SYSTEM, USER, Tokenizer

_PARTS = re.compile(r";(?=[^;=]*=)|;\s*$")  # a value may hold a semicolon: the next part has a sign of equality
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": SYSTEM, "function": SYSTEM}


def dialogue(config: Dialogue | Instruction, form: Form) -> Task:
    """Returns the task for a form of model."""
    if isinstance(config, Dialogue) and config.slots:
        return States(config, form)
    return Replies(config, form)


class _Conversation:
    """What replies and states share: turns in, an answer behind them.

    Template: each turn is ``<role> content <end>``, unless the config has one of a model's own. Where the turns are too
    long the oldest are forgotten, but for what the system says at the beginning.

    A decoder learns all answers of a conversation in one sequence, each after what stands before it; an encoder-decoder
    reads what stands before and learns one answer. Nothing but the answers and their ends is learned.
    """

    revision = 1
    output: Output = "text"
    before_answer = ASSISTANT

    def __init__(self, config: Dialogue | Instruction | Preference, form: Form) -> None:
        self.name: str = config.kind
        self._source, self._target, self._form = config.max_source_tokens, config.max_target_tokens, form
        self._template = None if config.template == LLMYARD else ChatTemplate(config.template)
        self._turn_end = config.turn_end

    def check(self, record: Record) -> Record:
        """Returns the record if its turns have a known role and content."""
        for turn in need(record, "messages", list, self.name):
            if turn.get("role") not in ROLES:
                raise BadExample(f"a message has the role {turn.get('role')!r}", f"known: {', '.join(ROLES)}")
            need(turn, "content", str, "message")
        if self._template is not None:
            self._template.check(record["messages"])
        if not self.cases(record):
            raise BadExample("no turn of the conversation has an answer to be learned", "end it with one")
        return record

    def cases(self, record: Record) -> list[Record]:
        """Returns each answer with what was said before it."""
        raise NotImplementedError

    def answer(self, case: Record) -> str:
        """Returns the answer of a case."""
        raise NotImplementedError

    def labels(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Texts have no labels."""
        return {}

    def inputs(self, record: Record, tokenizer: Tokenizer) -> list[Marked]:
        """Nothing is labelled."""
        return []

    def excess(self, record: Record, tokenizer: Tokenizer) -> tuple[int, int]:
        """Nothing is too long: the oldest turns are forgotten."""
        return 0, self._source

    def then(self, record: Record, answer: Any) -> Record | None:
        """Nothing more is asked."""
        return None

    def signatures(self, records: Sequence[Record]) -> dict[str, str]:
        """Every figure is computed in one way only."""
        return {}

    def prompt(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Returns the ids of the turns and of what makes the model answer."""
        if self._template is not None:
            return self._prompt_by(self._template, record["messages"], tokenizer)
        turns = [_turn(each, tokenizer) for each in record["messages"]]
        is_led = bool(turns) and record["messages"][0]["role"] == "system"
        lead, rest = (turns[0][: self._source // 2], turns[1:]) if is_led else ([], turns)
        room = self._source - 1 - len(lead)
        while len(rest) > 1 and sum(map(len, rest)) > room:
            rest = rest[1:]
        said = [id_ for turn in rest for id_ in turn]
        return [*lead, *said[max(0, len(said) - max(1, room)) :], tokenizer.control(self.before_answer)]

    def _prompt_by(self, template: ChatTemplate, messages: Sequence[Record], tokenizer: Tokenizer) -> list[int]:
        """Returns the prompt by a model's own template; the oldest turns are forgotten by twos, as roles alternate."""
        led = int(bool(messages) and messages[0]["role"] == "system")
        lead, rest = list(messages[:led]), list(messages[led:])
        ids = template.prompt([*lead, *rest], tokenizer)
        while len(ids) > self._source and len(rest) > 2:
            rest = rest[2:]
            ids = template.prompt([*lead, *rest], tokenizer)
        return ids[max(0, len(ids) - self._source) :]

    def target_ids(self, answer: str, tokenizer: Tokenizer) -> list[int]:
        """Returns an answer with its end, as the model learns it."""
        if self._template is None:
            return [*tokenizer.encode(answer), tokenizer.end_id]
        return [*tokenizer.encode(answer.strip()), tokenizer.control(self._end_name(tokenizer))]

    def _end_name(self, tokenizer: Tokenizer) -> str:
        assert self._template is not None
        return self._turn_end or self._template.turn_end(tokenizer)

    def encode(
        self, records: Sequence[Record], tokenizer: Tokenizer, labels: Labels
    ) -> list[list[EncodedExample] | None]:
        """Returns the sequences of each conversation; None where no answer of it is short enough."""
        return [self._encode(record, tokenizer) or None for record in records]

    def _encode(self, record: Record, tokenizer: Tokenizer) -> list[EncodedExample]:
        whole = self._in_one(record, tokenizer) if self._form == "decoder" else None
        if whole is not None:
            return [whole]
        examples = []
        for case in self.cases(record):
            target = self.target_ids(self.answer(case), tokenizer)
            if len(target) <= self._target:
                prompt = self.prompt(case, tokenizer)
                examples.append(self._example([*prompt, *target], [0] * len(prompt) + [1] * len(target), len(prompt)))
        return examples

    def _in_one(self, record: Record, tokenizer: Tokenizer) -> EncodedExample | None:
        """Returns all turns in one sequence; None where they are too many, or an answer is no turn."""
        return None

    def _example(self, ids: list[int], learned: list[int], start: int) -> EncodedExample:
        return EncodedExample(ids, target_start=start, labels=learned)

    def choices(self, record: Record) -> list[str] | None:
        """Answers are written, not chosen."""
        return None

    def decoding(self, labels: Labels) -> Decoding:
        """Returns the length of the longest answer that was learned, and the token that ends one."""
        return Decoding(max_new_tokens=self._target, end_tokens=(self._turn_end,) if self._turn_end else ())

    def prediction(self, record: Record, answer: Any) -> Any:
        """Returns what was written."""
        return str(answer).strip()


class Replies(_Conversation):
    """Records: ``messages`` [{role, content}], optionally ``learned: false`` in a message, and ``language``."""

    metric = "rouge_l"

    def cases(self, record: Record) -> list[Record]:
        """Returns each reply of the assistant that is to be learned, with the turns before it."""
        if "reply" in record:
            return [record]
        messages, found = record["messages"], []
        for at, turn in enumerate(messages):
            if turn["role"] == "assistant" and turn.get("learned", True) and at:
                language = record.get("language") or language_by_script(turn["content"])
                id_ = f"{record.get('id', '')}#{at}"
                found.append({"id": id_, "messages": messages[:at], "reply": turn["content"], "language": language})
        return found

    def answer(self, case: Record) -> str:
        """Returns the reply."""
        return str(case["reply"])

    def _in_one(self, record: Record, tokenizer: Tokenizer) -> EncodedExample | None:
        if self._template is not None:
            return self._in_one_by(self._template, record["messages"], tokenizer)
        ids: list[int] = []
        learned: list[int] = []
        for at, turn in enumerate(record["messages"]):
            each = _turn(turn, tokenizer)
            is_learned = turn["role"] == "assistant" and turn.get("learned", True) and at > 0
            if is_learned and len(each) - 1 > self._target:
                return None
            ids += each
            learned += [0, *[int(is_learned)] * (len(each) - 1)]
        if len(ids) > self._source + self._target or 1 not in learned:
            return None
        return self._example(ids, learned, learned.index(1))

    def _in_one_by(
        self, template: ChatTemplate, messages: Sequence[Record], tokenizer: Tokenizer
    ) -> EncodedExample | None:
        """Returns all turns by a model's own template; None where an answer is not asked for as it stands there."""
        whole, end = template.whole(messages, tokenizer), tokenizer.control(self._end_name(tokenizer))
        learned = [0] * len(whole.ids)
        for at, turn in enumerate(messages):
            if turn["role"] != "assistant" or not turn.get("learned", True) or not at:
                continue
            said = whole.said[at]
            if said is None or whole.ids[said[1] : said[1] + 1] != [end] or said[1] - said[0] >= self._target:
                return None
            if template.prompt(messages[:at], tokenizer) != whole.ids[: said[0]]:
                return None
            learned[said[0] : said[1] + 1] = [1] * (said[1] + 1 - said[0])
        if len(whole.ids) > self._source + self._target or 1 not in learned:
            return None
        return self._example(whole.ids, learned, learned.index(1))

    def measures(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns ROUGE-L, chrF and the share of replies that are right to the letter, by language and their means."""
        from llmyard.metrics.answers import exact_match
        from llmyard.metrics.corpus_scores import chrf_measure
        from llmyard.metrics.summaries import rouge_each

        def of(language: str, chosen: list[int]) -> dict[str, Measure]:
            said, right = [predictions[at] for at in chosen], [str(records[at]["reply"]) for at in chosen]
            pairs = list(zip(said, right, strict=True))
            return {
                "rouge_l": mean([each.rouge_l for each in rouge_each(said, right, language)]),
                "chrf": chrf_measure(said, right),
                "exact_match": mean([exact_match(one, other, language) for one, other in pairs]),
            }

        return by_group([record["language"] for record in records], of)

    def figures(self, predictions: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
        """Returns distinct-1 and -2 of all replies of a language: different n-grams among all (Li et al. 2016)."""
        from llmyard.metrics.dialogue import distinct
        from llmyard.metrics.summaries import units_of

        found: dict[str, float] = {}
        for language in sorted({record["language"] for record in records}):
            said = [each for each, record in zip(predictions, records, strict=True) if record["language"] == language]
            if any(units_of(each, language) for each in said):
                found |= {f"distinct{size}_{language}": distinct(said, size, language) for size in (1, 2)}
        return found

    def bucket(self, prediction: str, record: Record) -> str:
        """Returns what is wrong with a reply; "right" from a ROUGE-L of 0.5 on."""
        from llmyard.metrics.faults import fault_of
        from llmyard.metrics.summaries import rouge

        fault = fault_of(prediction, record["reply"])
        if fault is not None:
            return fault
        score = rouge([prediction], [record["reply"]], record["language"]).rouge_l
        return "right" if score >= 0.5 else "another reply"

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the training reply to the most similar last turn."""
        from llmyard.sources.smallworld.baselines import nearest_neighbour_translation

        def pair(case: Record) -> Record:
            language = case["language"]
            asked = case["messages"][-1]["content"]
            return {"source": asked, "target": case["reply"], "source_language": language, "target_language": language}

        known = [pair(case) for record in train for case in self.cases(record)]
        said = nearest_neighbour_translation(known, [pair(case) for case in test])
        return "reply to the most similar turn", said


class States(_Conversation):
    """Records: ``messages``, and ``states``: for each turn of the user all slots that have a value after it.

    The answer is ``slot=value; slot=value`` in the order of their names; "none" where no slot has a value.
    """

    metric = "slot_f1"
    before_answer = SEPARATOR

    def cases(self, record: Record) -> list[Record]:
        """Returns each turn of the user with the turns before it, and the state after it."""
        if "state" in record:
            return [record]
        users = [at for at, turn in enumerate(record["messages"]) if turn["role"] == "user"]
        states = record.get("states")
        if not isinstance(states, list) or len(states) != len(users):
            count = len(states) if isinstance(states, list) else None
            raise BadExample(f"{len(users)} turns of the user, {count} states", "give one for each")
        return [
            {"id": f"{record.get('id', '')}#{at}", "messages": record["messages"][: at + 1], "state": state}
            for at, state in zip(users, states, strict=True)
        ]

    def answer(self, case: Record) -> str:
        """Returns the state as text."""
        return state_text(case["state"])

    def prediction(self, record: Record, answer: Any) -> dict[str, str]:
        """Returns the slots that a text gives values; what is no ``slot=value`` is passed over."""
        pairs = [part.partition("=") for part in _PARTS.split(str(answer))]
        return {slot.strip(): value.strip() for slot, sign, value in pairs if sign and slot.strip() and value.strip()}

    def measures(self, predictions: Sequence[Mapping[str, str]], records: Sequence[Record]) -> dict[str, Measure]:
        """Returns precision, recall and F1 of (slot, value), and the share of turns whose state is right as a whole."""
        said = [_slots(each) for each in predictions]
        right = [_slots(record["state"]) for record in records]
        both = [len(one & other) for one, other in zip(said, right, strict=True)]
        return {
            "slot_f1": f1_of(both, [len(each) for each in said], [len(each) for each in right]),
            "slot_precision": precision_of(both, [len(each) for each in said]),
            "slot_recall": precision_of(both, [len(each) for each in right]),
            "joint_accuracy": mean([float(one == other) for one, other in zip(said, right, strict=True)]),
        }

    def figures(self, predictions: Sequence[Any], records: Sequence[Record]) -> dict[str, float]:
        """There are none but the measures."""
        return {}

    def bucket(self, prediction: Mapping[str, str], record: Record) -> str:
        """Returns what is wrong with a state."""
        said, right = _slots(prediction), _slots(record["state"])
        if said == right:
            return "right"
        if {slot for slot, _ in said - right} & {slot for slot, _ in right}:
            return "wrong value"
        return "slot that has no value" if said - right else "slot missed"

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, list[Any]]:
        """Returns the slots that have a value at most such turns, with their commonest value."""
        from llmyard.tasks.floors import majority_state

        states: dict[int, list[Mapping[str, str]]] = {}
        for record in train:
            for number, case in enumerate(self.cases(record)):
                states.setdefault(number, []).append(case["state"])
        last = max(states)
        usual = {number: majority_state(each) for number, each in states.items()}
        turns = [sum(turn["role"] == "user" for turn in case["messages"]) - 1 for case in test]
        return "commonest slots of the turn", [usual.get(min(turn, last), {}) for turn in turns]


def state_text(state: Mapping[str, Any]) -> str:
    """Returns a state as a model writes it; a slot whose value is empty has none."""
    return "; ".join(f"{slot}={value}" for slot, value in sorted(state.items()) if str(value).strip()) or "none"


def _slots(state: Mapping[str, Any]) -> set[tuple[str, str]]:
    from llmyard.metrics.dialogue import normalized_value

    found = {(normalized_value(slot), normalized_value(str(value))) for slot, value in state.items()}
    return {(slot, value) for slot, value in found if value}


def _turn(turn: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.control(ROLES[turn["role"]]), *tokenizer.encode(turn["content"]), tokenizer.end_id]
