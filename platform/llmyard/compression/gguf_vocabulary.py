"""A tokenizer's vocabulary as GGUF files hold it.

llama.cpp does not read how a tokenizer cuts texts into words: it knows some ways by name (``tokenizer.ggml.pre``). A
way that it knows is named; llmyard's own is none of them, and what is named instead makes the same tokens of most
texts. Where texts become other tokens there than here, :attr:`Vocabulary.differs` says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from llmyard.compression.exportable import check_size, token_name
from llmyard.core.errors import RequestError
from llmyard.tokens.tokenizer import BYTES, UNKNOWN, Tokenizer, byte_words, plain_words

# Kinds of tokens (llama.cpp's llama_token_type).
NORMAL, UNKNOWN_KIND, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_SPACE, _WRITTEN_SPACE = " ", "▁"  # a unigram tokenizer's spaces, here and in llama.cpp
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_OWN_BPE = "several blanks before a word: the last one belongs to the word in llama.cpp, and to the other blanks here"
_MERGES = "words that are tokens, and to which no merges lead"
_OWN_UNIGRAM = "characters without a piece, which llama.cpp writes as unknown instead of as bytes, and several blanks"


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: ``gpt2`` (byte-level BPE) or ``t5`` (unigram).
        pre: How texts are cut into words, by llama.cpp's name.
        tokens: By id.
        kinds: Of the tokens.
        scores: Of a unigram tokenizer, the pieces' log probabilities in nats.
        merges: Of a BPE tokenizer, in order.
        unknown: Id of the token for unknown characters; None where there is none.
        differs: What becomes other tokens in llama.cpp than here; "" if nothing does.
    """

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    unknown: int | None = None
    differs: str = ""


def why_not(tokenizer: Tokenizer) -> str:
    """Returns why llama.cpp cannot read texts as a tokenizer does; "" if it can, but for what ``differs`` says."""
    parts = json.loads(tokenizer.to_json())
    kind = parts["model"]["type"]
    if kind == "Unigram":
        return "" if _is(parts["pre_tokenizer"], plain_words) else "it is a unigram tokenizer with words of its own"
    if kind == "BPE" and _level(parts) is not None:
        return ""
    return f"llama.cpp has no counterpart of its tokenizer ({kind}) and of how that cuts texts into words"


def vocabulary(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """Returns what a GGUF file says of a tokenizer.

    Args:
        tokenizer: Of the model.
        rows: Ids of the model; those that the tokenizer does not have are unused.

    Raises:
        RequestError: The tokenizer has more ids than the model, or :func:`why_not` says why.
    """
    if fault := why_not(tokenizer):
        raise RequestError(fault, "train a tokenizer of kind bpe or unigram, or export to ctranslate2")
    check_size(tokenizer, rows)
    parts = json.loads(tokenizer.to_json())
    if parts["model"]["type"] == "Unigram":
        return _unigram(tokenizer, parts, rows)
    pre, differs = _level(parts) or ("", "")
    tokens, kinds = _named(tokenizer, rows, {})
    merges = [each if isinstance(each, str) else " ".join(each) for each in parts["model"]["merges"]]
    return Vocabulary("gpt2", pre, tokens, kinds, merges=merges, differs=differs)


def _unigram(tokenizer: Tokenizer, parts: Any, rows: int) -> Vocabulary:
    unknown = parts["model"]["unk_id"]
    special = {id_: BYTE for id_ in range(rows) if tokenizer.name_of(id_) in BYTES}
    if unknown is not None:
        special[unknown] = UNKNOWN_KIND
    tokens, kinds = _named(tokenizer, rows, special)
    given = [float(score) for _, score in parts["model"]["vocab"]]
    scores = (given + [0.0] * rows)[:rows]
    normal = (NORMAL, USER_DEFINED)
    written = [
        each.replace(_SPACE, _WRITTEN_SPACE) if kind in normal else each
        for each, kind in zip(tokens, kinds, strict=True)
    ]
    return Vocabulary("t5", "default", written, kinds, scores=scores, unknown=unknown, differs=_OWN_UNIGRAM)


def _named(tokenizer: Tokenizer, rows: int, special: dict[int, int]) -> tuple[list[str], list[int]]:
    """Returns the tokens and their kinds."""
    added = {each["id"]: each for each in json.loads(tokenizer.to_json())["added_tokens"]}
    tokens, kinds = [], []
    for id_ in range(rows):
        name = token_name(tokenizer, id_)
        if name is None:
            tokens.append(f"[PAD{id_}]")
            kinds.append(UNUSED)
            continue
        tokens.append(name)
        usual = NORMAL if id_ not in added else CONTROL if added[id_]["special"] else USER_DEFINED
        kinds.append(special.get(id_, UNKNOWN_KIND if name == UNKNOWN and id_ not in added else usual))
    return tokens, kinds


def _level(parts: Any) -> tuple[str, str] | None:
    """Returns llama.cpp's name of how a byte-level BPE tokenizer cuts texts, and what differs; None for none."""
    model, cut = parts["model"], parts["pre_tokenizer"]
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if any(model.get(key) for key in odd) or not cut:
        return None
    steps = cut["pretokenizers"] if cut["type"] == "Sequence" else [cut]
    if steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if _is(cut, byte_words):
        return ("gpt-2", _OWN_BPE) if not parts["normalizer"] else None
    normal = parts["normalizer"] is None or parts["normalizer"]["type"] == "NFC"
    if not normal:
        return None
    if steps[-1]["use_regex"]:
        before = [each["type"] for each in steps[:-1]]
        if not before:
            return "gpt-2", ""
        digits = before == ["Digits"] and steps[0]["individual_digits"]
        return ("smollm", "") if digits else None
    if len(steps) != 2 or steps[0]["type"] != "Split" or steps[0].get("invert"):
        return None
    known = {_LLAMA3: "llama-bpe", _QWEN2: "qwen2"}
    name = known.get(steps[0]["pattern"].get("Regex", ""))
    if name is None:
        return None
    # Of Llama 3 a word that is a token stays whole, even where no merges lead to it.
    return name, "" if bool(model.get("ignore_merges")) == (name == "llama-bpe") else _MERGES


def _is(cut: Any, words: Any) -> bool:
    """Returns whether texts are cut as llmyard's own tokenizers do, with Chinese characters apart or together."""
    return any(cut == json.loads(each.__getstate__()) for each in (words(True), words(False)))
