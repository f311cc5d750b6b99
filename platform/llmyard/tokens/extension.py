"""More tokens for a given tokenizer: what it had keeps its ids and meaning, and new ones come behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from llmyard.core.compiled import Bools
from llmyard.core.errors import DataError, RequestError
from llmyard.tokens.bpe import HAN, byte_characters, character_classes
from llmyard.tokens.characters import words_of
from llmyard.tokens.config import ExtendedTokenizer, UnigramTokenizer, WordPieceTokenizer
from llmyard.tokens.counts import Counts, count_all
from llmyard.tokens.merging import Symbols, learn_merges
from llmyard.tokens.tokenizer import BYTES, CONTROL, UNKNOWN, Tokenizer


def extend(base: Tokenizer, texts: Iterable[str], config: ExtendedTokenizer) -> Tokenizer:
    """Returns the tokenizer with tokens learned from ``texts``; see :func:`extend_by`."""
    return extend_by(base, count_all(texts, base.split_han), config)


def extend_by(base: Tokenizer, counts: Counts, config: ExtendedTokenizer) -> Tokenizer:
    """Returns the tokenizer with up to ``new_tokens`` more tokens, learned from counted words.

    BPE goes on merging where it stopped, so the new merges rank behind the old ones. Unigram and WordPiece get the
    pieces they lack of a vocabulary learned from the words. A text without any of the new tokens keeps its ids.

    Args:
        base: A tokenizer that llmyard trained.
        counts: Words, counted with ``base.split_han``.
        config: How many tokens, and from which words.

    Raises:
        DataError: There is no word to learn from.
        RequestError: The base tokenizer is of another make.
    """
    if config.script == "han":
        words = words_of(counts)
        # Ideographs, ideographic and full-width punctuation; quotation marks and dashes are not Chinese alone.
        wide = ((words.points >= 0x3000) & (words.points < 0x3040)) | (
            (words.points >= 0xFF00) & (words.points < 0xFFF0)
        )
        counts = _chosen(counts, words.any(wide | ((character_classes()[words.points] & HAN) != 0)))
    if not len(counts):
        raise DataError("there is no text to extend a tokenizer by", "check the sources, and `script`")
    parts = json.loads(base.to_json())
    match parts["model"]["type"]:
        case "BPE":
            return _more_merges(base, parts, counts, config.new_tokens)
        case "Unigram":
            return _more_pieces(base, parts, counts, config.new_tokens)
        case "WordPiece":
            return _more_words(parts, counts, config.new_tokens)
        case other:
            raise RequestError(f"a tokenizer of the kind {other} cannot be extended", "train a new one")


def _chosen(counts: Counts, keep: Bools) -> Counts:
    lengths = np.diff(counts.offsets)
    return Counts(counts.data[np.repeat(keep, lengths)], np.append(0, np.cumsum(lengths[keep])), counts.counts[keep])


def _more_merges(base: Tokenizer, parts: dict[str, Any], counts: Counts, new_tokens: int) -> Tokenizer:
    model = parts["model"]
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    names = sorted(model["vocab"], key=model["vocab"].__getitem__)
    controls = set(CONTROL)
    given = [name.encode() if name in controls else bytes(byte_of[each] for each in name) for name in names]
    ids, offsets = base.encode_column(counts.words)
    symbols = Symbols(ids.astype(np.int32), offsets, counts.counts)
    learned = learn_merges(symbols, given, len(names) + new_tokens, reserved=len(CONTROL))
    alphabet = byte_characters()
    names += ["".join([alphabet[byte] for byte in token]) for token in learned.tokens[len(names) :]]
    model["vocab"] = {name: number for number, name in enumerate(names)}
    model["merges"] += [[names[left], names[right]] for left, right in learned.pairs.tolist()]
    return Tokenizer.from_json(json.dumps(parts, ensure_ascii=False))


def _more_pieces(base: Tokenizer, parts: dict[str, Any], counts: Counts, new_tokens: int) -> Tokenizer:
    from llmyard.tokens.training import train_unigram

    vocabulary = parts["model"]["vocab"]
    known = {piece for piece, _ in vocabulary}
    size = len(known) + new_tokens
    settings = UnigramTokenizer.model_construct(vocab_size=size, split_han=base.split_han, byte_fallback=False)
    learned = json.loads(train_unigram(counts, settings).to_json())["model"]["vocab"]
    fresh = [piece for piece in learned if piece[0] not in known and piece[0] not in (UNKNOWN, *BYTES)]
    vocabulary += fresh[:new_tokens]
    return Tokenizer.from_json(json.dumps(parts, ensure_ascii=False))


def _more_words(parts: dict[str, Any], counts: Counts, new_tokens: int) -> Tokenizer:
    from llmyard.tokens.training import train_wordpiece

    vocabulary = parts["model"]["vocab"]
    settings = WordPieceTokenizer.model_construct(vocab_size=len(vocabulary) + new_tokens)
    learned = json.loads(train_wordpiece(counts, settings).to_json())["model"]["vocab"]
    fresh = [word for word in sorted(learned, key=learned.__getitem__) if word not in vocabulary][:new_tokens]
    vocabulary.update({word: len(vocabulary) + number for number, word in enumerate(fresh)})
    return Tokenizer.from_json(json.dumps(parts, ensure_ascii=False))
