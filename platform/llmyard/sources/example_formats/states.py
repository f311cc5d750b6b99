"""Conversations about services, with what the user wants after each of his turns: SGD (English) and CrossWOZ (Chinese).

A record's ``states`` has, for each turn of the user, all slots that have a value by then, as {"domain-slot": value}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmyard.sources.example_formats.conversations import learnable
from llmyard.sources.example_formats.needed import Unfit, need
from llmyard.sources.records import Fault, Found, Record, kind_of

_SGD = {"USER": "user", "SYSTEM": "assistant"}
_CROSSWOZ = {"usr": "user", "sys": "assistant"}
# What a system found for the user, not what he asked for.
_RESULTS = "selectedResults"


def sgd(document: Any) -> Iterator[Found]:
    """Yields the dialogues of a file of the schema-guided dialogue data; the number is the dialogue's.

    The first of a slot's values is taken: the others are other spellings of it. A service's variant is left out of the
    domain (``Hotels_2`` is ``Hotels``), as it cannot be told from what is said. Schemas, which lie beside the
    dialogues, are passed over.
    """
    if not isinstance(document, list):
        yield 0, Fault(f"the document is {kind_of(document)}, not a list of dialogues")
        return
    for number, dialogue in enumerate(document, start=1):
        if isinstance(dialogue, dict) and "service_name" in dialogue and "turns" not in dialogue:
            continue
        try:
            yield number, _sgd(dialogue)
        except Unfit as unfit:
            yield number, Fault(str(unfit))


def _sgd(dialogue: Any) -> Record:
    name = need(dialogue, "dialogue_id", str, "the dialogue")
    wanted: dict[str, Mapping[str, Any]] = {}  # a service's slots stay while the user talks of another one
    turns, states = [], []
    for turn in need(dialogue, "turns", list, "the dialogue"):
        turns.append(_turn(turn, "speaker", "utterance", _SGD))
        if turns[-1]["role"] != "user":
            continue
        for frame in need(turn, "frames", list, "a turn"):
            state = need(frame, "state", dict, "a frame of the user")
            wanted[need(frame, "service", str, "a frame")] = need(state, "slot_values", dict, "a state")
        states.append(
            {
                f"{re.sub(r'_[0-9]+$', '', service)}-{slot}": _first(values, slot)
                for service, slots in wanted.items()
                for slot, values in slots.items()
                if values
            }
        )
    return _record(name, turns, states)


def _first(values: Any, slot: str) -> str:
    if not isinstance(values, list) or not isinstance(values[0], str):
        raise Unfit(f"the slot {slot} holds {kind_of(values)}, not a list of texts")
    return values[0]


def crosswoz(document: Any) -> Iterator[Found]:
    """Yields the dialogues of a CrossWOZ file; the number is the dialogue's.

    A turn's state is ``sys_state_init`` of the reply to it: what the system had understood before it looked
    anything up.
    """
    if not isinstance(document, dict):
        yield 0, Fault(f"the document is {kind_of(document)}, not an object of dialogues")
        return
    for number, (name, dialogue) in enumerate(document.items(), start=1):
        try:
            yield number, _crosswoz(name, dialogue)
        except Unfit as unfit:
            yield number, Fault(str(unfit))


def _crosswoz(name: str, dialogue: Any) -> Record:
    turns, states = [], []
    for turn in need(dialogue, "messages", list, "the dialogue"):
        turns.append(_turn(turn, "role", "content", _CROSSWOZ))
        if turns[-1]["role"] == "assistant":
            state = need(turn, "sys_state_init", dict, "a reply")
            states.append({f"{domain}-{slot}": value for domain in state for slot, value in _filled(state, domain)})
    return _record(name, turns, states)


def _filled(state: Record, domain: str) -> Iterator[tuple[str, str]]:
    for slot, value in need(state, domain, dict, "a state").items():
        if slot == _RESULTS or value in ("", [], None):
            continue
        if not isinstance(value, str):
            raise Unfit(f"the slot {domain}-{slot} holds {kind_of(value)}, not a text")
        if value.strip():
            yield slot, value


def _turn(turn: Any, speaker: str, said: str, roles: Mapping[str, str]) -> Record:
    name = need(turn, speaker, str, "a turn")
    if name not in roles:
        raise Unfit(f"a turn is of {name!r}; known are {', '.join(roles)}")
    content = turn.get(said)
    if not isinstance(content, str):
        raise Unfit(f"{said!r} of a turn is {kind_of(content)}, not a text")
    return {"role": roles[name], "content": content}


def _record(name: str, turns: list[Record], states: list[dict[str, str]]) -> Record:
    kept = learnable(turns)
    users = sum(turn["role"] == "user" for turn in kept)
    return {"id": name, "group": name, "messages": kept, "states": states[:users]}
