"""Which tokens begin a word, Chinese or English: what masks over whole words are made of."""

from __future__ import annotations

import json
import re

import numpy as np

from llmyard.core.compiled import I64, U8, Bools, compiled
from llmyard.tokens.tokenizer import CONTROL, Tokenizer
from llmyard.tokens.words import starts_in

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_CONTINUED, _SPACE = "##", "\u2581"


class WordStarts:
    """Finds words in token ids; the words are those of ``words.py``.

    Args:
        tokenizer: Of the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = bytes_of_tokens(tokenizer)
        self._data = np.frombuffer(b"".join(pieces), np.uint8)
        self._offsets = np.append(0, np.cumsum([len(piece) for piece in pieces], dtype=np.int64))

    def __call__(self, ids: I64) -> Bools:
        """Returns for each token whether it begins a word; the first one does.

        A token that holds the end of one word and the beginning of the next goes with the former.
        """
        ids = np.asarray(ids, np.int64)
        text, ends = _joined(ids, self._data, self._offsets)
        return _begins(text, ends, starts_in(text))


def token_sizes(tokenizer: Tokenizer) -> I64:
    """Returns how many bytes of a text each token stands for, (V); 0 for control tokens."""
    sizes = np.array([len(piece) for piece in bytes_of_tokens(tokenizer)], np.int64)
    sizes[[tokenizer.control(token) for token in CONTROL]] = 0
    return sizes


def bytes_of_tokens(tokenizer: Tokenizer) -> list[bytes]:
    """Returns the bytes of each token as it stands in a text; a line feed for control tokens."""
    from llmyard.tokens.bpe import byte_characters, bytes_of

    alphabet = set(byte_characters())
    model = json.loads(tokenizer.to_json())["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        names = sorted(vocabulary, key=vocabulary.__getitem__)
    else:
        names = [name for name, _ in vocabulary]
    kind = model["type"]
    pieces = []
    for name in names:
        if name in CONTROL:
            pieces.append(b"\n")
        elif kind == "BPE" and set(name) <= alphabet:
            pieces.append(bytes_of(name))
        elif found := _BYTE.fullmatch(name):
            pieces.append(bytes([int(found[1], 16)]))
        elif kind == "WordPiece":
            inner = name.removeprefix(_CONTINUED)
            is_spaced = inner == name and not "\u3400" <= name[:1] <= "\u9fff"
            pieces.append((" " if is_spaced else "").encode() + inner.encode())
        else:
            pieces.append(name.replace(_SPACE, " ").encode())
    return pieces


@compiled
def _joined(ids: I64, data: U8, offsets: I64) -> tuple[U8, I64]:
    """Returns the bytes of all tokens, and where each token's end."""
    ends = np.empty(len(ids), np.int64)
    size = np.int64(0)
    for index in range(len(ids)):
        size += offsets[ids[index] + 1] - offsets[ids[index]]
        ends[index] = size
    text = np.empty(size, np.uint8)
    at = np.int64(0)
    for token in ids:
        for place in range(offsets[token], offsets[token + 1]):
            text[at] = data[place]
            at += 1
    return text, ends


@compiled
def _begins(text: U8, ends: I64, starts: U8) -> Bools:
    begins = np.zeros(len(ends), np.bool_)
    at = np.int64(0)
    for token in range(len(ends)):
        place = at
        while place < ends[token] and (text[place] == 0x20 or text[place] == 0x0A or text[place] == 0x09):
            place += 1
        # Space alone is a word; so is what begins one behind its space.
        begins[token] = token == 0 or place == ends[token] or starts[place] != 0
        at = ends[token]
    return begins
