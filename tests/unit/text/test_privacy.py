"""Personal data: found by form and checksum, in both languages; everything else is left as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sources.smallworld import SmallWorld
from llmyard.text.config import PII, Privacy
from llmyard.text.privacy import Span, iban_valid, id_card_valid, luhn_valid, mask, spans_of

PRESIDIO = Path(__file__).resolve().parents[4] / "shared/data/presidio_pii/synth_dataset_v2.json"
PRESIDIO_KINDS = {
    "EMAIL_ADDRESS": "mail",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "bank_card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
}


def find(text: str) -> list[Span]:
    return spans_of(pa.array([text]), PII).get(0, [])


def kinds_of(text: str) -> dict[str, str]:
    return {text[span.start : span.end]: span.kind for span in find(text)}


def masked(text: str, **config: object) -> str:
    return str(mask(pa.array([text]), Privacy.model_validate(config)).texts[0].as_py())


@pytest.mark.parametrize(
    ("text", "kind", "span"),
    [
        ("邮箱是mibaru7@example.com。", "mail", "mibaru7@example.com"),
        ("Write to <first.last+tag@mail.example.co.uk>, please.", "mail", "first.last+tag@mail.example.co.uk"),
        ("手机号是15412345678。", "phone", "15412345678"),
        ("手机+86 154 1234 5678，谢谢", "phone", "+86 154 1234 5678"),
        ("座机010-62345678转3", "phone", "010-62345678"),
        ("(0755) 62345678", "phone", "(0755) 62345678"),
        ("Call +1-777-555-0169 for details.", "phone", "+1-777-555-0169"),
        ("Call (202) 555-0169 x12 now", "phone", "(202) 555-0169 x12"),
        ("My number is 202-555-0169.", "phone", "202-555-0169"),
        ("Tel.: +49 30 901820", "phone", "+49 30 901820"),
        ("Phone:\n60-56-85-91\n", "phone", "60-56-85-91"),
        ("身份证号是11010118981201297X。", "id_card", "11010118981201297X"),
        ("卡号6200008008204552。", "bank_card", "6200008008204552"),
        ("card 4000 0084 2859 7467 expires", "bank_card", "4000 0084 2859 7467"),
        ("IBAN GB33 BUKB 2020 1555 5555 55 please", "iban", "GB33 BUKB 2020 1555 5555 55"),
        ("来自198.51.100.63。", "ip", "198.51.100.63"),
        ("from 2001:db8::8a2e:370:7334.", "ip", "2001:db8::8a2e:370:7334"),
        ("AKIAIOSFODNN7EXAMPLE", "key", "AKIAIOSFODNN7EXAMPLE"),
        ('api_key = "9f8a7b6c5d4e3f2a1b0c"', "key", "9f8a7b6c5d4e3f2a1b0c"),
        ("密码：Xk29fjQ8zLm41pRt", "key", "Xk29fjQ8zLm41pRt"),
        ("sk-proj-abcDEF0123456789abcDEF01", "key", "sk-proj-abcDEF0123456789abcDEF01"),
        ("postgres://admin:pa55word@db.example.com/x", "credentials", "admin:pa55word"),
    ],
)
def test_each_kind_is_found_where_it_stands(text: str, kind: str, span: str) -> None:
    if kind == "id_card":
        body = span[:17]
        check = "10X98765432"[sum(int(d) * (2 ** (17 - i) % 11) for i, d in enumerate(body)) % 11]
        text, span = text.replace(span, body + check), body + check
    assert kinds_of(text) == {span: kind}


@pytest.mark.parametrize(
    "text",
    [
        "邮箱是bako12@example。然后",
        "icon@2x.png",
        "git@github.com:owner/repository.git",
        "import {x} from 'package@1.2.3'",
        "手机号是15444811。",
        "Call +1-586-55-1 for details.",
        "证件号码：110101189810032970",
        "身份证号是110101189813012971。",
        "付款到卡号6200006631442734。",
        "The last login came from 203.0.113.279.",
        "127.0.0.1 and 0.0.0.0",
        "version 10.2.33.1, 版本10.2.33.1",
        "see section 1.1.2.1.",
        "at 12:30:45 on 2017-02-24, 2018-02-24 12:45:18",
        "联系我们：2017-02-24",
        "from 1914-1918 and 1939 – 1945",
        "std::vector<int>::iterator a::b",
        "3.14159265358979 and 1,234,567,890",
        "ISBN 978-3-16-148410-0",
        "https://example.com/2017/02/24/1234567890",
        "password: correct-horse-battery-staple",
        "token: transformers.models.auto",
        "人口为1234567人，面积9876543平方米。",
        "2382 0000",
        "x15412345678, 15412345678abc, phone_15412345678",
        "phone 6200008008204552ab, phone id4000008428597467",
    ],
)
def test_what_only_looks_personal_is_left_alone(text: str) -> None:
    assert kinds_of(text) == {}
    assert masked(text) == text


def test_masking_keeps_the_rest_and_counts_by_kind() -> None:
    texts = pa.chunked_array([["写信到 a.b@example.com 或致电15412345678。"], ["nothing here", None, "198.51.100.63"]])
    result = mask(texts, Privacy())
    assert result.texts.to_pylist() == ["写信到 [EMAIL] 或致电[PHONE]。", "nothing here", None, "[IP]"]
    assert result.counts == {"mail": 1, "phone": 1, "ip": 1}
    assert result.rows == 2


def test_only_the_wanted_kinds_are_masked() -> None:
    assert masked("a@example.com 198.51.100.63", kinds=["ip"]) == "a@example.com [IP]"
    # What is not wanted still keeps its place: the password in a URL is no mail address.
    assert masked("ftp://u:secret@host.example.com", kinds=["mail"]) == "ftp://u:secret@host.example.com"


def test_a_column_without_anything_personal_is_returned_as_it_was() -> None:
    texts = pa.array(["第一行", "second"])
    assert mask(texts, Privacy()).texts is texts
    assert mask(pa.array([], pa.string()), Privacy()).texts.to_pylist() == []


def test_fakes_are_harmless_values_of_their_kind() -> None:
    text = "a.b@real.org 202-555-0169 4000008428597467 GB82WEST12345698765432 198.51.100.63 AKIAIOSFODNN7EXAMPLE"
    once = masked(text, replace_by="fake")
    assert once.split()[0] == "name@example.com"
    assert masked(once, replace_by="fake") == once


def test_checksums() -> None:
    assert luhn_valid("4000000000000002")
    assert not luhn_valid("4000000000000003")
    assert iban_valid("GB82WEST12345698765432")
    assert not iban_valid("GB82WEST12345698765433")
    assert id_card_valid("110101189001010015") != id_card_valid("110101189001010016")


def scored(items: Iterable[tuple[str, set[tuple[str, int, int]]]]) -> dict[str, float]:
    """Span F1 by kind and in all."""
    hit: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for text, gold in items:
        found: set[tuple[str, int, int]] = {tuple(span) for span in find(text)}
        hit.update(kind for kind, _, _ in found & gold)
        wrong.update(kind for kind, _, _ in found ^ gold)
    result = {kind: 2 * hit[kind] / (2 * hit[kind] + wrong[kind]) for kind in hit.keys() | wrong.keys()}
    return {**result, "all": 2 * hit.total() / (2 * hit.total() + wrong.total())}


def test_smallworld_identifiers_are_found_and_invalid_ones_are_not() -> None:
    world = SmallWorld("standard", seed=11)
    documents = [world.document(i) for i in range(4000)]
    items = [
        (each.text, {(p["type"], p["start"], p["end"]) for p in each.labels.get("pii", []) if p["valid"]})
        for each in documents
    ]
    result = scored(items)
    assert {"mail", "phone", "id_card", "bank_card", "ip"} <= result.keys()
    assert min(result.values()) >= 0.95, result


@pytest.mark.skipif(not PRESIDIO.exists(), reason=f"{PRESIDIO} is missing")
def test_presidio_spans_of_the_kinds_covered() -> None:
    items = [
        (
            each["full_text"],
            {
                (PRESIDIO_KINDS[span["entity_type"]], span["start_position"], span["end_position"])
                for span in each["spans"]
                if span["entity_type"] in PRESIDIO_KINDS
            },
        )
        for each in json.loads(PRESIDIO.read_text(encoding="utf-8"))
    ]
    assert scored(items)["all"] >= 0.95


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789 -+().@:/xabcXé中。\n", max_size=60))
def test_spans_are_ordered_disjoint_and_masking_twice_changes_nothing_more(text: str) -> None:
    spans = find(text)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert all(span.start < span.end and span.kind in PII for span in spans)
    once = masked(text)
    assert once == text if not spans else once != text
    assert masked(once) == once
