"""Learns merges from counted words: the merges of Hugging Face's ``tokenizers``, without the corpus at hand.

Byte pair encoding (Sennrich et al. 2016): the commonest pair of neighbours becomes a token, again and again; of
equally common pairs the one of smaller ids comes first. Each pair knows the words it stands in, so a merge touches
those only, and the next pair is at the top of a heap.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llmyard.core.compiled import I32, I64, U8, U64, Number, compiled
from llmyard.tokens.counts import hash_of

_NO_PAIR = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Symbols:
    """Words as sequences of token ids.

    Attributes:
        ids: Of all words, one after the other.
        offsets: Where each word begins (one more than words).
        counts: How often each word comes.
    """

    ids: I32
    offsets: I64
    counts: I64


@dataclass(frozen=True, slots=True)
class Merges:
    """Attributes:
    pairs: Ids of the two parts of each merge, in order. A pair may come again: then its last place counts.
    tokens: The bytes of every token, those that were given first.
    """

    pairs: I32
    tokens: list[bytes]


def learn_merges(symbols: Symbols, tokens: list[bytes], vocab_size: int, reserved: int, prefix: int = 0) -> Merges:
    """Returns merges until there are ``vocab_size`` tokens, or no pair of neighbours is left.

    Args:
        symbols: The words; changed in place.
        tokens: The bytes of the tokens there are already, by id.
        vocab_size: How many tokens there shall be.
        reserved: The first so many tokens are never made by a merge.
        prefix: Bytes that the right part of a merge loses: 2 where tokens inside of words begin with ``##``.
    """
    data = np.frombuffer(b"".join(tokens), np.uint8).copy()
    offsets = np.append(0, np.cumsum([len(token) for token in tokens], dtype=np.int64))
    lengths = np.diff(symbols.offsets).astype(np.int32)
    pairs, data, offsets = _learn(
        symbols.ids, symbols.offsets, lengths, symbols.counts, data, offsets, vocab_size, reserved, prefix
    )
    whole = data.tobytes()
    return Merges(pairs, [whole[low:high] for low, high in pairwise(offsets.tolist())])


@compiled
def _grown_32(array: I32, size: int) -> I32:
    """Returns the array with room for ``size`` values, new ones -1."""
    result = np.full(max(size, 2 * len(array)), -1, np.int32)
    result[: len(array)] = array
    return result


@compiled
def _grown_64(array: I64, size: int) -> I64:
    result = np.zeros(max(size, 2 * len(array)), np.int64)
    result[: len(array)] = array
    return result


@compiled
def _slot_of(key: Number, table: U64) -> Number:
    """Returns where a pair stands in the open-addressed table, or the free slot where it would."""
    mask = np.uint64(len(table) - 1)
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(29))) & mask
    while table[slot] != _NO_PAIR and table[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _table_of(keys: I64, used: int, room: int) -> tuple[U64, I32]:
    """Returns a table of the first ``used`` pairs with space for ``room``."""
    size = 1 << 10
    while size < 2 * room:
        size *= 2
    table, places = np.full(size, _NO_PAIR), np.empty(size, np.int32)
    for pair in range(used):
        slot = _slot_of(np.uint64(keys[pair]), table)
        table[slot], places[slot] = np.uint64(keys[pair]), pair
    return table, places


@compiled
def _push(counts: I64, keys: I64, entries: I64, size: int, count: Number, key: Number, entry: Number) -> int:
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if counts[above] > count or (counts[above] == count and keys[above] <= key):
            break
        counts[at], keys[at], entries[at] = counts[above], keys[above], entries[above]
        at = above
    counts[at], keys[at], entries[at] = count, key, entry
    return size + 1


@compiled
def _pop(counts: I64, keys: I64, entries: I64, size: int) -> int:
    """Takes the top off the heap; returns how many remain."""
    size -= 1
    count, key, entry = counts[size], keys[size], entries[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        right = below + 1
        if right < size and (
            counts[right] > counts[below] or (counts[right] == counts[below] and keys[right] < keys[below])
        ):
            below = right
        if counts[below] < count or (counts[below] == count and keys[below] >= key):
            break
        counts[at], keys[at], entries[at] = counts[below], keys[below], entries[below]
        at = below
    counts[at], keys[at], entries[at] = count, key, entry
    return size


@compiled
def _find_token(data: U8, offsets: I64, hashes: U64, ids: I32, start: Number, stop: Number) -> tuple[Number, Number]:
    """Returns the slot and id of the token of these bytes; id -1 where there is none."""
    mask = np.uint64(len(hashes) - 1)
    key = hash_of(data, start, stop)
    slot = (key >> np.uint64(11)) & mask
    while hashes[slot] != 0:
        token = ids[slot]
        same = hashes[slot] == key and offsets[token + 1] - offsets[token] == stop - start
        index = 0
        while same and index < stop - start:
            same = data[offsets[token] + index] == data[start + index]
            index += 1
        if same:
            return slot, token
        slot = (slot + np.uint64(1)) & mask
    return slot, np.int32(-1)


@compiled
def _pairs_of(symbols: I32, starts: I64, lengths: I32, weights: I64) -> tuple[I64, I64, int, U64, I32, I64, I64, I32]:
    """Returns the pairs of neighbours: keys (left << 32 | right), counts, their number, the table from key to place,
    and where in the last array the words of each pair stand, and how many.
    """
    keys, counts = np.zeros(1 << 12, np.int64), np.zeros(1 << 12, np.int64)
    last, spread = np.full(1 << 12, -1, np.int32), np.zeros(1 << 12, np.int64)
    table, places = _table_of(keys, 0, 1 << 12)
    pairs = 0
    for word in range(len(lengths)):
        start, length = starts[word], lengths[word]
        if pairs + length > len(keys):
            room = max(pairs + length, 2 * len(keys))
            keys, counts, spread = _grown_64(keys, room), _grown_64(counts, room), _grown_64(spread, room)
            last = _grown_32(last, room)
            table, places = _table_of(keys, pairs, len(keys))
        for at in range(start, start + length - 1):
            key = (np.uint64(symbols[at]) << np.uint64(32)) | np.uint64(symbols[at + 1])
            slot = _slot_of(key, table)
            if table[slot] == _NO_PAIR:
                table[slot], places[slot], keys[pairs] = key, pairs, np.int64(key)
                pairs += 1
            pair = places[slot]
            counts[pair] += weights[word]
            if last[pair] != word:
                last[pair] = word
                spread[pair] += 1
    begin, size, total = np.zeros(pairs + 1, np.int64), np.zeros(pairs + 1, np.int64), 0
    for number in range(pairs):
        begin[number] = total
        total += int(spread[number])
    where = np.empty(total, np.int32)
    last[:] = -1
    for word in range(len(lengths)):
        for at in range(starts[word], starts[word] + lengths[word] - 1):
            key = (np.uint64(symbols[at]) << np.uint64(32)) | np.uint64(symbols[at + 1])
            pair = places[_slot_of(key, table)]
            if last[pair] != word:
                last[pair] = word
                where[begin[pair] + size[pair]] = word
                size[pair] += 1
    return keys, counts, pairs, table, places, begin, size, where


@compiled
def _learn(
    symbols: I32, starts: I64, lengths: I32, weights: I64, data: U8, offsets: I64, vocab_size: int, reserved: int,
    prefix: int,
) -> tuple[I32, U8, I64]:  # fmt: skip
    tokens = len(offsets) - 1
    limit = max(vocab_size, tokens)
    old_offsets, offsets = offsets, np.zeros(limit + 1, np.int64)
    offsets[: tokens + 1] = old_offsets
    size = 1 << 8
    while size < 2 * limit + 2:
        size *= 2
    token_hashes, token_ids = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    for token in range(tokens):
        slot, known = _find_token(data, offsets, token_hashes, token_ids, offsets[token], offsets[token + 1])
        if known < 0:
            token_hashes[slot], token_ids[slot] = hash_of(data, offsets[token], offsets[token + 1]), token

    keys, counts, pairs, table, places, entry_start, entry_size, where = _pairs_of(symbols, starts, lengths, weights)
    total = len(where)
    last, spread = np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int32)
    # An entry is a pair and the words in which it came up; a pair may have several, from different merges.
    entry_pair = np.arange(len(entry_start))
    entries = pairs
    heap_counts, heap_keys = np.zeros(pairs + 1, np.int64), np.zeros(pairs + 1, np.int64)
    heap_entries, heap = np.zeros(pairs + 1, np.int64), 0
    for pair in range(pairs):
        heap = _push(heap_counts, heap_keys, heap_entries, heap, counts[pair], keys[pair], pair)

    merges, merged = np.zeros(1 << 10, np.int64), 0
    change_pair, change_word = np.zeros(1 << 10, np.int32), np.zeros(1 << 10, np.int32)
    touched = np.zeros(1 << 10, np.int32)
    while tokens < vocab_size and heap > 0:
        found, top = heap_counts[0], heap_entries[0]
        heap = _pop(heap_counts, heap_keys, heap_entries, heap)
        pair = entry_pair[top]
        if found != counts[pair]:
            if counts[pair] > 0:
                heap = _push(heap_counts, heap_keys, heap_entries, heap, counts[pair], keys[pair], top)
            continue
        left, right = np.int32(keys[pair] >> 32), np.int32(keys[pair] & 0xFFFFFFFF)

        # The new token's bytes go behind all others; a merge may also spell a token that another merge made.
        at, left_size = offsets[tokens], offsets[left + 1] - offsets[left]
        right_start = offsets[right] + prefix
        stop = at + left_size + offsets[right + 1] - right_start
        if stop > len(data):
            old, data = data, np.empty(max(stop, 2 * len(data)), np.uint8)
            data[: len(old)] = old
        for index in range(left_size):
            data[at + index] = data[offsets[left] + index]
        for index in range(stop - at - left_size):
            data[at + left_size + index] = data[right_start + index]
        slot, new = _find_token(data, offsets, token_hashes, token_ids, at, stop)
        if 0 <= new < reserved:
            continue
        if new < 0:
            new = np.int32(tokens)
            token_hashes[slot], token_ids[slot] = hash_of(data, at, stop), new
            tokens += 1
            offsets[tokens] = stop
        if merged == len(merges):
            merges = _grown_64(merges, 0)
        merges[merged] = keys[pair]
        merged += 1

        # Every new pair holds the new token, which bounds their number.
        if pairs + 2 * tokens + 2 > len(keys):
            room = pairs + 2 * tokens + 2
            keys, counts = _grown_64(keys, room), _grown_64(counts, room)
            last, spread = _grown_32(last, room), _grown_32(spread, room)
            spread[pairs:] = 0
            table, places = _table_of(keys, pairs, len(keys))
        if 2 * tokens + 2 > len(touched):
            touched = _grown_32(touched, 2 * tokens + 2)
        changes, changed = 0, 0
        for index in range(entry_start[top], entry_start[top] + entry_size[top]):
            word = where[index]
            start, length, weight = starts[word], lengths[word], weights[word]
            if changes + 2 * length > len(change_pair):
                change_pair = _grown_32(change_pair, changes + 2 * length)
                change_word = _grown_32(change_word, changes + 2 * length)
            read, write = 0, 0
            while read < length:
                first = symbols[start + read]
                if first != left or read + 1 >= length or symbols[start + read + 1] != right:
                    symbols[start + write] = first
                    read += 1
                    write += 1
                    continue
                for side in range(2):
                    if side == 0:
                        if write == 0:
                            continue
                        before = np.uint64(symbols[start + write - 1])
                        gone = (before << np.uint64(32)) | np.uint64(left)
                        key = (before << np.uint64(32)) | np.uint64(new)
                    else:
                        if read + 2 >= length:
                            continue
                        after = np.uint64(symbols[start + read + 2])
                        gone = (np.uint64(right) << np.uint64(32)) | after
                        key = (np.uint64(new) << np.uint64(32)) | after
                    counts[places[_slot_of(gone, table)]] -= weight
                    slot = _slot_of(key, table)
                    if table[slot] == _NO_PAIR:
                        table[slot], places[slot], keys[pairs] = key, pairs, np.int64(key)
                        pairs += 1
                    made = places[slot]
                    counts[made] += weight
                    if last[made] != word:
                        last[made] = word
                        if spread[made] == 0:
                            touched[changed] = made
                            changed += 1
                        spread[made] += 1
                        change_pair[changes], change_word[changes] = made, word
                        changes += 1
                symbols[start + write] = new
                read += 2
                write += 1
            lengths[word] = write

        if entries + changed > len(entry_pair):
            room = entries + changed
            entry_pair, entry_start = _grown_64(entry_pair, room), _grown_64(entry_start, room)
            entry_size = _grown_64(entry_size, room)
        if heap + changed > len(heap_counts):
            room = heap + changed
            heap_counts, heap_keys = _grown_64(heap_counts, room), _grown_64(heap_keys, room)
            heap_entries = _grown_64(heap_entries, room)
        for index in range(changed):
            made = touched[index]
            last[made] = -1
            if counts[made] <= 0:
                spread[made] = 0
                continue
            entry_pair[entries], entry_start[entries], entry_size[entries] = made, total, 0
            total += spread[made]
            heap = _push(heap_counts, heap_keys, heap_entries, heap, counts[made], keys[made], entries)
            spread[made] = -1 - entries  # where the words go, until they are put there
            entries += 1
        if total > len(where):
            where = _grown_32(where, total)
        for index in range(changes):
            made = change_pair[index]
            if spread[made] < 0:
                entry = -1 - spread[made]
                where[entry_start[entry] + entry_size[entry]] = change_word[index]
                entry_size[entry] += 1
        for index in range(changed):
            spread[touched[index]] = 0
    return _halves(merges[:merged]), data[: offsets[tokens]], offsets[: tokens + 1]


@compiled
def _halves(keys: I64) -> I32:
    result = np.empty((len(keys), 2), np.int32)
    for index in range(len(keys)):
        result[index, 0], result[index, 1] = keys[index] >> 32, keys[index] & 0xFFFFFFFF
    return result
