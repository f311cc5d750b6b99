"""Text to token ids and back; the text of a document can never become a control token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend

from llmyard.core.errors import RequestError
from llmyard.tokens.config import TrainedTokenizer

if TYPE_CHECKING:
    from llmyard.tokens.bpe import CompiledBpe

FILE = "tokenizer.json"
PAD, END, SEPARATOR, ENGLISH, CHINESE, USER, ASSISTANT, SYSTEM = (
    "<|pad|>", "<|end|>", "<|separator|>", "<|en|>", "<|zh|>", "<|user|>", "<|assistant|>", "<|system|>",
)  # fmt: skip
CONTROL = (PAD, END, SEPARATOR, ENGLISH, CHINESE, USER, ASSISTANT, SYSTEM)

# What stands for a character that a vocabulary does not know, and for single bytes of such characters.
UNKNOWN = "\ufffd"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Words with the space before them, numbers digit by digit, punctuation, and Chinese characters apart from all else.
_WORDS = r" ?(?:(?!\p{Han})\p{L})+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
_HAN_RUNS = r"\p{Han}+|"
_HAN_SINGLE = r"\p{Han}|"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each token the span of characters it stands for."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Tokenizer:
    """A tokenizer with llmyard's control tokens.

    Control tokens are put in by id only: a literal ``<|end|>`` in a text is encoded as ordinary characters.
    """

    def __init__(self, backend: Backend) -> None:
        backend.encode_special_tokens = True
        self._backend = backend
        missing = [token for token in CONTROL if backend.token_to_id(token) is None]
        if missing:
            raise RequestError(f"the tokenizer lacks the control tokens {', '.join(missing)}", "train one with prepare")

    @classmethod
    def load(cls, file: str | Path) -> Tokenizer:
        """Returns the tokenizer of a ``tokenizer.json``."""
        return cls(Backend.from_file(str(file)))

    @classmethod
    def train(cls, texts: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
        """Returns a tokenizer learned from ``texts``, of which memory holds the different words only.

        Raises:
            DataError: There was no text.
            RequestError: The vocabulary has no room for the characters.
        """
        from llmyard.tokens.counts import count_all
        from llmyard.tokens.training import train

        return train(count_all(texts, getattr(config, "split_han", True)), config)

    def save(self, file: str | Path) -> None:
        """Writes ``tokenizer.json``, which Hugging Face libraries read too."""
        self._backend.save(str(file))

    def to_json(self) -> str:
        """Returns the content of ``tokenizer.json``."""
        return str(self._backend.to_str())

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Returns the tokenizer that :meth:`to_json` wrote."""
        return cls(Backend.from_str(text))

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Tokenizer.from_json, (self.to_json(),)

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""
        return int(self._backend.get_vocab_size())

    def control(self, token: str) -> int:
        """Returns the id of a control token."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return int(found)

    @cached_property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self.control(PAD)

    @cached_property
    def end_id(self) -> int:
        """Id of the token that ends a document or an answer."""
        return self.control(END)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one text."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_template(self, text: str) -> list[int]:
        """Returns the ids of a text of one's own, in which the names of special tokens stand for these."""
        return list(self._naming.encode(text, add_special_tokens=False).ids)

    def is_special(self, id_: int) -> bool:
        """Returns whether an id is that of a special token, which stands for no text."""
        found = self._specials.get(id_)
        return found is not None

    def name_of(self, id_: int) -> str:
        """Returns the name of a token, as :meth:`control` takes it."""
        return str(self._backend.id_to_token(id_))

    def spelling(self, id_: int) -> bytes:
        """Returns the bytes of text that a token stands for by itself, perhaps a part of a character; of a special
        token those of its name.
        """
        name = self.name_of(id_)
        if self.is_special(id_):
            return name.encode()
        if id_ in self._byte_values:
            return bytes([int(name[3:5], 16)])
        if self._is_byte_level and all(each in _BYTE_OF for each in name):
            return bytes(_BYTE_OF[each] for each in name)
        return str(self._backend.decode([id_], skip_special_tokens=False)).encode()

    @cached_property
    def _is_byte_level(self) -> bool:
        decoder = json.loads(self.to_json())["decoder"] or {}
        return any(each["type"] == "ByteLevel" for each in decoder.get("decoders", [decoder]) if each)

    @cached_property
    def _naming(self) -> Backend:
        backend = Backend.from_str(self.to_json())
        backend.encode_special_tokens = False
        return backend

    @cached_property
    def _specials(self) -> dict[int, str]:
        added = self._backend.get_added_tokens_decoder()
        return {id_: token.content for id_, token in added.items() if token.special}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of many texts; the work is done outside Python."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def encode_column(self, texts: Any) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Returns the ids of all texts of an Arrow string column in a row, and where each text's begin.

        A BPE tokenizer that :meth:`train` made is compiled to machine code on first use; any other is encoded by the
        ``tokenizers`` library, to the same ids.
        """
        compiled = self._compiled
        if compiled is not None:
            return compiled.encode(texts)
        ids = self.encode_batch(texts.to_pylist())
        offsets = np.cumsum([0, *(len(each) for each in ids)], dtype=np.int64)
        return np.fromiter((one for each in ids for one in each), np.uint32, int(offsets[-1])), offsets

    @property
    def split_han(self) -> bool:
        """Whether every Chinese character is a word of its own.

        Raises:
            RequestError: The tokenizer splits texts in another way than llmyard's.
        """
        parts = json.loads(self.to_json())
        if parts["model"]["type"] == "WordPiece":
            return True
        for split_han in (False, True):
            if parts["pre_tokenizer"] in [json.loads(words(split_han).__getstate__()) for words in WORDS]:
                return split_han
        raise RequestError("the tokenizer splits texts into words in a way of its own", "give one that llmyard trained")

    @cached_property
    def _compiled(self) -> CompiledBpe | None:
        from llmyard.tokens.bpe import CompiledBpe

        parts = json.loads(self.to_json())
        model = parts["model"]
        plain = model["type"] == "BPE" and not parts["normalizer"]
        plain = plain and not any(
            model.get(key)
            for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "byte_fallback")
        )
        for split_han in (False, True):
            if plain and parts["pre_tokenizer"] == json.loads(byte_words(split_han).__getstate__()):
                return CompiledBpe(self.to_json(), split_han)
        return None

    def encode_with_spans(self, texts: Sequence[str]) -> list[Encoded]:
        """Returns ids and character spans of many texts."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        found = [Encoded(list(encoding.ids), list(encoding.offsets)) for encoding in encodings]
        if self._byte_values:
            for each, text in zip(found, texts, strict=True):
                _part_runs(each, text, self._byte_values)
        return found

    @cached_property
    def _byte_values(self) -> frozenset[int]:
        """Ids of single bytes in a vocabulary with byte fallback."""
        return frozenset(found for token in BYTES if (found := self._backend.token_to_id(token)) is not None)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Returns the texts of many rows of ids, without control tokens; the work is done outside Python."""
        return list(self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without control tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))


def _byte_characters() -> dict[str, int]:
    """Returns the byte that each character of a byte-level vocabulary stands for (GPT-2, Radford et al. 2019):
    printable ones for themselves, the others, in their order, from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


def _part_runs(encoded: Encoded, text: str, byte_values: frozenset[int]) -> None:
    """Gives each byte the span of its character: ``tokenizers`` gives it that of a whole run of unknown ones."""
    at = 0
    while at < len(encoded.ids):
        low, high = encoded.spans[at]
        if encoded.ids[at] in byte_values:
            for place in range(low, high):
                for _ in text[place].encode():
                    encoded.spans[at] = (place, place + 1)
                    at += 1
        else:
            at += 1


def plain_words(split_han: bool) -> pre_tokenizers.PreTokenizer:
    """Returns what splits a text into words, spaces included."""
    return pre_tokenizers.Split(Regex((_HAN_SINGLE if split_han else _HAN_RUNS) + _WORDS), behavior="isolated")


def byte_words(split_han: bool) -> pre_tokenizers.PreTokenizer:
    """Returns what splits a text into words, spelled in a byte-level vocabulary's characters."""
    return pre_tokenizers.Sequence(
        [plain_words(split_han), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


WORDS = (plain_words, byte_words)
