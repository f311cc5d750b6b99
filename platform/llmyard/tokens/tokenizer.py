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
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from llmyard.core.errors import DataError, RequestError
from llmyard.tokens.config import BpeTokenizer

if TYPE_CHECKING:
    from llmyard.tokens.bpe import CompiledBpe

FILE = "tokenizer.json"
PAD, END, SEPARATOR, ENGLISH, CHINESE, USER, ASSISTANT, SYSTEM = (
    "<|pad|>", "<|end|>", "<|separator|>", "<|en|>", "<|zh|>", "<|user|>", "<|assistant|>", "<|system|>",
)  # fmt: skip
CONTROL = (PAD, END, SEPARATOR, ENGLISH, CHINESE, USER, ASSISTANT, SYSTEM)

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
    def train(cls, texts: Iterable[str], config: BpeTokenizer) -> Tokenizer:
        """Returns a tokenizer whose merges are learned from ``texts``.

        Raises:
            DataError: There was no text.
        """
        backend = Backend(models.BPE())
        backend.pre_tokenizer = _pre_tokenizer(config.split_han)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=list(CONTROL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        count = 0

        def counted() -> Iterable[str]:
            nonlocal count
            for text in texts:
                count += 1
                yield text

        backend.train_from_iterator(counted(), trainer)
        if not count:
            raise DataError("there is no text to train a tokenizer on", "check the sources and the quality rules")
        return cls(backend)

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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of many texts; the work is done outside Python."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def encode_column(self, texts: Any) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Returns the ids of all texts of an Arrow string column in a row, and where each text's begin.

        A tokenizer that :meth:`train` made is compiled to machine code on first use; any other is encoded by the
        ``tokenizers`` library, to the same ids.
        """
        compiled = self._compiled
        if compiled is not None:
            return compiled.encode(texts)
        ids = self.encode_batch(texts.to_pylist())
        offsets = np.cumsum([0, *(len(each) for each in ids)], dtype=np.int64)
        return np.fromiter((one for each in ids for one in each), np.uint32, int(offsets[-1])), offsets

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
            if plain and parts["pre_tokenizer"] == json.loads(_pre_tokenizer(split_han).__getstate__()):
                return CompiledBpe(self.to_json(), split_han)
        return None

    def encode_with_spans(self, texts: Sequence[str]) -> list[Encoded]:
        """Returns ids and character spans of many texts."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [Encoded(list(encoding.ids), list(encoding.offsets)) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without control tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))


def _pre_tokenizer(split_han: bool) -> pre_tokenizers.PreTokenizer:
    pattern = (_HAN_SINGLE if split_han else _HAN_RUNS) + _WORDS
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
