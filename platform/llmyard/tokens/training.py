"""Tokenizers learned from counted words: one function a kind, all deterministic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from llmyard.core.errors import DataError, RequestError
from llmyard.tokens.bpe import LETTER, SPACE, byte_characters, character_classes
from llmyard.tokens.characters import covered, words_of
from llmyard.tokens.config import (
    BpeTokenizer,
    CharacterTokenizer,
    TrainedTokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
)
from llmyard.tokens.counts import Counts
from llmyard.tokens.merging import Merges, Symbols, learn_merges
from llmyard.tokens.tokenizer import BYTES, CONTROL, UNKNOWN, Tokenizer, byte_words, plain_words
from llmyard.tokens.unigram import learn_pieces

CONTINUED = "##"


def train(counts: Counts, config: TrainedTokenizer) -> Tokenizer:
    """Returns the tokenizer that the settings ask for.

    Raises:
        DataError: There are no words.
        RequestError: The vocabulary has no room for the characters.
    """
    if not len(counts):
        raise DataError("there is no text to train a tokenizer on", "check the sources and the quality rules")
    match config:
        case UnigramTokenizer():
            return train_unigram(counts, config)
        case WordPieceTokenizer():
            return train_wordpiece(counts, config)
        case CharacterTokenizer():
            return train_characters(counts, config)
        case _:
            return train_bpe(counts, config)


def train_bpe(counts: Counts, config: BpeTokenizer) -> Tokenizer:
    """Returns the byte-level BPE tokenizer that ``tokenizers`` would train on the texts of the counts."""
    alphabet = byte_characters()
    order = sorted(range(256), key=alphabet.__getitem__)
    of_byte = np.zeros(256, np.int32)
    of_byte[order] = np.arange(256, dtype=np.int32) + len(CONTROL)
    given = [*(token.encode() for token in CONTROL), *(bytes([byte]) for byte in order)]
    symbols = Symbols(of_byte[counts.data], counts.offsets, counts.counts)
    learned = learn_merges(symbols, given, config.vocab_size, reserved=len(CONTROL))
    names = [*CONTROL, *(byte_name(token) for token in learned.tokens[len(CONTROL) :])]
    backend = Backend(bpe_model(names, learned))
    backend.pre_tokenizer = byte_words(config.split_han)
    backend.decoder = decoders.ByteLevel()
    return with_controls(backend)


def byte_name(token: bytes) -> str:
    """Returns how a byte-level vocabulary spells a token."""
    alphabet = byte_characters()
    return "".join([alphabet[byte] for byte in token])


def bpe_model(names: Sequence[str], learned: Merges) -> models.BPE:
    """Returns the BPE model of tokens by id and of the learned merges."""
    merges = [(names[left], names[right]) for left, right in learned.pairs.tolist()]
    return models.BPE(dict(zip(names, range(len(names)), strict=True)), merges)


def train_unigram(counts: Counts, config: UnigramTokenizer) -> Tokenizer:
    """Returns a unigram tokenizer whose pieces are learned from the words.

    Raises:
        RequestError: The vocabulary has no room for the characters.
    """
    words = words_of(counts)
    words = words.without(words.points == ord(UNKNOWN))
    common = covered(words, config.coverage)
    words = words.without(~np.isin(words.points, common))
    given = [*CONTROL, UNKNOWN, *(BYTES if config.byte_fallback else ())]
    room = _room(config.vocab_size, len(given), len(common), config.coverage)
    pieces = [*((token, 0.0) for token in given), *learn_pieces(words, room)]
    return unigram(pieces, config.byte_fallback, config.split_han)


def unigram(pieces: Sequence[tuple[str, float]], byte_fallback: bool, split_han: bool) -> Tokenizer:
    """Returns the unigram tokenizer of pieces and their log probabilities, by id; control tokens and UNKNOWN first."""
    backend = Backend(models.Unigram(list(pieces), len(CONTROL), byte_fallback))
    backend.pre_tokenizer = plain_words(split_han)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return with_controls(backend)


def train_wordpiece(counts: Counts, config: WordPieceTokenizer) -> Tokenizer:
    """Returns a WordPiece tokenizer whose pieces are merged as in BPE.

    Args:
        counts: Counted with ``split_han``.
        config: The settings.

    Raises:
        RequestError: The vocabulary has no room for the characters.
    """
    given = [*CONTROL, UNKNOWN]
    words = words_of(counts)
    classes = character_classes()
    words = words.without((classes[words.points] & SPACE) != 0)
    common = covered(words, config.coverage)
    words = words.filter(~words.any(~np.isin(words.points, common)) & (np.diff(words.offsets) > 0))
    # Each punctuation mark and digit is a word of its own.
    words = words.filter(~words.any((classes[words.points] & LETTER) == 0))
    inside = np.ones(len(words.points), bool)
    inside[words.offsets[:-1]] = False
    inner = np.unique(words.points[inside])
    names = [*map(chr, common.tolist()), *(CONTINUED + chr(point) for point in inner.tolist())]
    names = [name for name in names if name not in given]
    _room(config.vocab_size, len(given), len(names), config.coverage)
    numbers = {name: number for number, name in enumerate([*given, *names])}
    outer_ids = np.array([numbers[chr(point)] for point in common.tolist()], np.int32)
    inner_ids = np.array([numbers[CONTINUED + chr(point)] for point in inner.tolist()], np.int32)
    ids = outer_ids[np.searchsorted(common, words.points)]
    ids[inside] = inner_ids[np.searchsorted(inner, words.points[inside])]
    learned = learn_merges(
        Symbols(ids, words.offsets, words.counts), [name.encode() for name in numbers], config.vocab_size,
        reserved=len(given), prefix=len(CONTINUED),
    )  # fmt: skip
    return wordpiece([token.decode() for token in learned.tokens])


def train_characters(counts: Counts, config: CharacterTokenizer) -> Tokenizer:
    """Returns the tokenizer whose tokens are the characters of the words.

    Raises:
        RequestError: The vocabulary has no room for them.
    """
    words = words_of(counts)
    words = words.without(words.points == ord(UNKNOWN))
    common = covered(words, config.coverage)
    given = [*CONTROL, UNKNOWN]
    _room(config.vocab_size, len(given), len(common), config.coverage)
    tokens = [*given, *map(chr, common.tolist())]
    # A byte-pair encoding without pairs: characters stay apart.
    backend = Backend(models.BPE(dict(zip(tokens, range(len(tokens)), strict=True)), [], unk_token=UNKNOWN))
    backend.pre_tokenizer = plain_words(True)
    backend.decoder = decoders.Fuse()
    return with_controls(backend)


def wordpiece(tokens: Sequence[str]) -> Tokenizer:
    """Returns the WordPiece tokenizer of tokens by id."""
    vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
    backend = Backend(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), behavior="removed"),
            pre_tokenizers.Split(Regex(r"\p{Han}|(?:(?!\p{Han})\p{L})+|[^\p{L}]"), behavior="isolated"),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix=CONTINUED, cleanup=True),
            decoders.Fuse(),
            # Chinese is written without the spaces that stand between words of other scripts.
            decoders.Replace(
                Regex(r"(?<=[\p{Han}，。！？；：、（）《》“”]) | (?=[\p{Han}，。！？；：、（）《》“”])"), ""
            ),
        ]
    )
    return with_controls(backend)


def _room(vocab_size: int, given: int, characters: int, coverage: float) -> int:
    if vocab_size < given + characters:
        raise RequestError(
            f"vocab_size {vocab_size} has no room for {given} fixed tokens and the {characters} characters that make "
            f"up {coverage:.4%} of the sample",
            "raise tokenizer.vocab_size, or lower tokenizer.coverage",
        )
    return vocab_size - given


def with_controls(backend: Backend) -> Tokenizer:
    """Returns the tokenizer with the control tokens marked as such."""
    backend.add_special_tokens(list(CONTROL))
    return Tokenizer(backend)
