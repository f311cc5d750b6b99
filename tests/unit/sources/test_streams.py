"""Compressed files: what comes before damage is read, bombs are left, and memory stays small."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pyarrow as pa
import pytest

from llmyard.sources.config import Limits

LINES = [
    json.dumps({"text": f"第{number}行 line {number * 7919 % 10007}"}, ensure_ascii=False) for number in range(3000)
]
DATA = "".join(line + "\n" for line in LINES).encode()


def compressed(data: bytes, suffix: str) -> bytes:
    return gzip.compress(data) if suffix == "gz" else pa.Codec("zstd").compress(data, asbytes=True)


def whole_lines(data: bytes) -> int:
    return data.count(b"\n")


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_lines_are_read_with_the_ids_of_plain_ones(read_bytes: Any, suffix: str) -> None:
    plain, _ = read_bytes(DATA, "a.jsonl")
    found, bad = read_bytes(compressed(DATA, suffix), f"a.jsonl.{suffix}")
    assert [row["text"] for row in found] == [row["text"] for row in plain]
    assert [row["id"].partition("#")[2] for row in found] == [row["id"].partition("#")[2] for row in plain]
    assert bad == []
    half = compressed(DATA[:1000], suffix) + compressed(DATA[1000:], suffix)
    assert read_bytes(half, f"a.jsonl.{suffix}") == (found, [])


def test_all_whole_lines_before_a_cut_are_kept(read_bytes: Any) -> None:
    import zlib

    for cut in (11, 500, 5000, 12_345, -20, -8, -1):
        data = gzip.compress(DATA)[:cut]
        inflated = zlib.decompressobj(31).decompress(data)
        found, bad = read_bytes(data, "a.jsonl.gz")
        assert len(found) == whole_lines(inflated)
        assert [item.reason.partition(":")[0] for item in bad] == ["the compressed data is damaged or cut short here"]
        assert bad[0].offset == inflated.rfind(b"\n") + 1
        assert bad[0].excerpt == inflated[bad[0].offset :].decode("utf-8", "backslashreplace")


def test_all_blocks_before_a_cut_of_zstandard_are_kept(read_bytes: Any) -> None:
    # Zstandard gives out blocks of 128 KiB: of a smaller file that is cut there is nothing to be had.
    big = b"".join(json.dumps({"text": str(number * number)}).encode() + b"\n" for number in range(60_000))
    data = compressed(big, "zst")
    found, bad = read_bytes(data[: len(data) * 2 // 3], "a.jsonl.zst")
    assert len(bad) == 1
    # The offset is that of the first line that is not whole, and all before it are there.
    assert len(found) == whole_lines(big[: bad[0].offset]) > 10_000
    assert bad[0].offset + len(bad[0].excerpt.encode()) >= 128 << 10
    assert big[bad[0].offset - 1 : bad[0].offset] == b"\n"


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_flipped_bits_and_what_is_no_archive_are_quarantined(read_bytes: Any, suffix: str) -> None:
    for name in ("a.jsonl", "a.txt", "a.tsv", "a.csv", "a.json", "a.html", "a.warc", "a.wet"):
        for data in (b"not compressed at all", compressed(DATA, suffix)[:9]):
            found, bad = read_bytes(data, f"{name}.{suffix}", document="paragraph")
            assert found == []
            assert len(bad) == 1
    data = bytearray(compressed(DATA, suffix))
    data[len(data) // 2] ^= 0xFF
    found, bad = read_bytes(bytes(data), f"a.jsonl.{suffix}")
    assert any("damaged or cut short" in item.reason for item in bad)
    assert all(row["text"].startswith("第") for row in found[:100])


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_bomb_is_left_when_it_is_known_to_be_one(read_bytes: Any, suffix: str) -> None:
    line = json.dumps({"text": "a" * 1000}).encode() + b"\n"
    bomb = compressed(line * 60_000, suffix)
    assert len(bomb) < 300_000
    found, bad = read_bytes(bomb, f"a.jsonl.{suffix}")
    assert 7000 < len(found) < 20_000  # what came out before 8 MiB, and before the next look
    assert len(bad) == 1
    assert "max_decompressed_ratio of 200" in bad[0].reason
    found, bad = read_bytes(bomb, f"a.jsonl.{suffix}", Limits(max_decompressed_ratio=100_000))
    assert (len(found), bad) == (60_000, [])
    found, bad = read_bytes(
        bomb, f"a.jsonl.{suffix}", Limits(max_decompressed_ratio=100_000, max_decompressed_bytes=1 << 20)
    )
    assert 900 < len(found) < 1200
    assert "max_decompressed_bytes = 1,048,576" in bad[0].reason


def test_a_text_that_is_cut_is_no_document(read_bytes: Any) -> None:
    text = "\n\n".join(f"第{number}段" + "字" * (number % 50) for number in range(500)).encode()
    found, bad = read_bytes(gzip.compress(text)[:-100], "a.txt.gz")
    assert found == []
    assert "cut short" in bad[0].reason
    found, bad = read_bytes(gzip.compress(text)[:-100], "a.txt.gz", document="paragraph")
    assert len(found) > 5
    assert "".join(row["text"] for row in found).replace("\n", "") in text.decode().replace("\n", "")
    assert ["cut short" in item.reason for item in bad] == [True]
    found, bad = read_bytes(gzip.compress(text), "b.txt.gz", document="paragraph", document_characters=10**6)
    assert [row["text"] for row in found] == [text.decode()]


def test_damage_is_told_whatever_share_is_kept(read_bytes: Any) -> None:
    for name in ("a.jsonl.gz", "a.tsv.gz", "a.csv.gz", "a.json.gz", "a.txt.gz", "a.warc.gz"):
        for share in (0.001, 0.01):
            _, bad = read_bytes(gzip.compress(DATA)[:-40], name, share=share, document="paragraph")
            assert any("cut short" in item.reason or "no text" in item.reason for item in bad), name
