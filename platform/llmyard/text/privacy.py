"""Personal data and secrets: found by form and checksum, and masked.

Precision comes first, since every mask is a hole in a sentence: a number is taken for what it says it is only when its
checksum, date, issuer or length holds, or when a word like "phone" stands beside it. Names and street addresses are
not looked for.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from llmyard.text.config import Pii, Privacy
from llmyard.text.tables import table

_CONTEXT = 40  # characters before a number in which a word says what it is


class Span(NamedTuple):
    """Where something personal stands: ``text[start:end]``."""

    kind: Pii
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Masked:
    """Attributes:
    texts: The column with every span replaced.
    counts: Kind to number of spans.
    rows: How many texts were changed.
    """

    texts: Any
    counts: dict[str, int]
    rows: int


def mask(texts: pa.ChunkedArray | pa.Array, config: Privacy) -> Masked:
    """Returns the texts with the spans of the wanted kinds replaced."""
    values = table("privacy")["placeholders" if config.replace_by == "placeholder" else "fakes"]
    found = spans_of(texts, config.kinds)
    changed = {row: _replaced(texts[row].as_py(), spans, values) for row, spans in found.items()}
    counts: Counter[str] = Counter(span.kind for spans in found.values() for span in spans)
    return Masked(_with_rows(texts, changed), dict(counts), len(changed))


def spans_of(texts: pa.ChunkedArray | pa.Array, kinds: Collection[Pii]) -> dict[int, list[Span]]:
    """Returns what is personal in each text that holds any: row to spans in their order, which do not overlap.

    Only rows that a column-wide pattern suspects are read in Python.
    """
    suspects = {
        group: pc.fill_null(_suspected(texts, pattern), False).to_numpy(zero_copy_only=False)
        for group, pattern in table("privacy")["suspects"].items()
        if not _FINDERS[group].kinds.isdisjoint(kinds)
    }
    rows = sorted({int(row) for marks in suspects.values() for row in marks.nonzero()[0]})
    found = {
        row: _found(texts[row].as_py(), [group for group in suspects if suspects[group][row]], kinds) for row in rows
    }
    return {row: spans for row, spans in found.items() if spans}


def _suspected(texts: Any, pattern: str) -> Any:
    return pc.match_substring(texts, pattern) if pattern == "@" else pc.match_substring_regex(texts, pattern)


def _with_rows(texts: Any, changed: dict[int, str]) -> Any:
    if not changed:
        return texts
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    marks = [False] * len(whole)
    for row in changed:
        marks[row] = True
    return pc.replace_with_mask(whole, pa.array(marks), pa.array(list(changed.values()), whole.type))


def _found(text: str, groups: Collection[str], kinds: Collection[Pii]) -> list[Span]:
    """Groups run in the order of precedence: what one has taken the next leaves alone."""
    taken: list[Span] = []
    for group, finder in _FINDERS.items():
        if group in groups:
            taken += [span for span in finder.find(text) if _free(span, taken)]
    return sorted((span for span in taken if span.kind in kinds), key=lambda span: span.start)


def _free(span: Span, taken: list[Span]) -> bool:
    return all(span.end <= other.start or other.end <= span.start for other in taken)


def _replaced(text: str, spans: list[Span], values: dict[str, str]) -> str:
    pieces, at = [], 0
    for span in spans:
        pieces += [text[at : span.start], values[span.kind]]
        at = span.end
    return "".join([*pieces, text[at:]])


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(table("privacy")[name])


# --- keys and credentials -------------------------------------------------------------------------------------------


def _keys(text: str) -> Iterator[Span]:
    for match in _pattern("key_forms").finditer(text):
        yield Span("key", match.start(), match.end())
    for match in _pattern("key_assignments").finditer(text):
        if _random(match["secret"]):
            yield Span("key", match.start("secret"), match.end("secret"))


def _random(secret: str) -> bool:
    """Digits and letters with an entropy no phrase or path has; 3.2 bits lets 16 hexadecimal digits pass."""
    counts = Counter(secret)
    entropy = -sum(n / len(secret) * math.log2(n / len(secret)) for n in counts.values())
    return entropy >= 3.2 and any(c.isdigit() for c in secret) and any(c.isalpha() for c in secret)


# --- mail -----------------------------------------------------------------------------------------------------------

_CREDENTIALS = re.compile(r"(?<=://)[^\s/:@\"'<>]{1,64}:[^\s/@\"'<>]{1,128}(?=@)")
_DOMAIN = re.compile(r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?P<top>[A-Za-z]{2,24})(?![A-Za-z0-9-])")
_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-")


def _mail(text: str) -> Iterator[Span]:
    credentials = [Span("credentials", match.start(), match.end()) for match in _CREDENTIALS.finditer(text)]
    yield from credentials
    data = table("privacy")
    for match in _DOMAIN.finditer(text):
        start = match.start()
        while start > 0 and text[start - 1] in _LOCAL and match.start() - start < 64:
            start -= 1
        while start < match.start() and text[start] in ".%+-":
            start += 1
        name = text[start : match.start()]
        harmless = name.lower() in data["harmless_mail_names"] or match["top"].lower() in data["file_endings"]
        if name and not harmless and not any(span.end == match.start() for span in credentials):
            yield Span("mail", start, match.end())


# --- addresses of machines ------------------------------------------------------------------------------------------

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-fA-F]{1,4}(?:::?[0-9a-fA-F]{1,4}){2,7}(?![\w:]|\.\d)", re.ASCII)
_VERSION = re.compile(r"(?i)(?:\bv|\bversion|\brelease|\bsection|§|版本|第)\W{0,2}$")


def _addresses(text: str) -> Iterator[Span]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            nobody = address.is_loopback or address.is_unspecified or address.is_multicast
            numbering = re.fullmatch(r"\d(?:\.\d){3}", match.group())  # 1.1.2.1 is a section more often than a host
            if not nobody and not numbering and not _VERSION.search(text, max(0, match.start() - 10), match.start()):
                yield Span("ip", match.start(), match.end())


# --- IBAN -----------------------------------------------------------------------------------------------------------

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?(?![A-Za-z0-9])")


def _ibans(text: str) -> Iterator[Span]:
    lengths = table("privacy")["iban_lengths"]
    for match in _IBAN.finditer(text):
        wanted = lengths.get(match.group()[:2].upper())
        end, seen = match.start(), 0
        while wanted and end < match.end() and seen < wanted:
            seen += text[end] != " "
            end += 1
        closed = end == match.end() or text[end] == " "  # a word may follow "GB33 BUKB … 5555"
        if wanted and seen == wanted and closed and iban_valid(text[match.start() : end].replace(" ", "")):
            yield Span("iban", match.start(), end)


def iban_valid(account: str) -> bool:
    """Returns whether the check digits of an IBAN hold (ISO 7064 MOD 97-10)."""
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


# --- numbers --------------------------------------------------------------------------------------------------------

# Begins with a digit and not with its sign: the engine then leaps from digit to digit.
_RUN = re.compile(r"\d(?:[ .()‐-–\-]{0,2}\d){6,}(?:[Xx](?![\w]))?(?: ?(?:x|ext\.?) ?\d{1,6}\b)?", re.ASCII)
_ID_CARD = re.compile(r"(?<!\w)\d{6}[ -]?\d{8}[ -]?\d{3}[\dXx](?!\w)", re.ASCII)
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){11,18}(?![\w]|[.-]\d)", re.ASCII)
_MOBILE_ZH = re.compile(r"(?<![\w.])(?:(?:\+|00)?86[ -]?)?1[3-9]\d([ -]?)\d{4}\1\d{4}(?![\w]|[.-]\d)", re.ASCII)
_LANDLINE_ZH = re.compile(r"(?<![\w.])(?:\(0\d{2,3}\) ?|0\d{2,3}-)[2-8]\d{6,7}(?:-\d{1,6})?(?![\w]|[.-]\d)", re.ASCII)
_AMERICAN = re.compile(
    r"(?<![\w.])(?:(?:\+?|00)1[-. ]?)?(?:\(\d{3}\) ?|\d{3}(?P<gap>[-.]))\d{3}(?(gap)(?P=gap)|[-.])\d{4}"
    r"(?: ?(?:x|ext\.?) ?\d{1,6})?(?![\w]|[.-]\d)",
    re.ASCII,
)
# Dates, spans of years, and dotted quads that are no address: none is a phone number, whatever stands before it.
_NO_PHONE = re.compile(
    r"[12]\d{3}[-. ]\d{1,2}[-. ]\d{1,2}(?: \d\d?)?|\d{1,2}[-. ]\d{1,2}[-. ][12]\d{3}(?: \d\d?)?"
    r"|[12]\d{3} ?[-‐-–] ?[12]\d{3}|\d{1,3}(?:\.\d{1,3}){3}"
)
_GLUED = re.compile(r"[A-Za-z_]0|0[A-Za-z_]")  # part of an identifier
_SENTENCE_END = re.compile(r"[。！？]|[.!?] ")


def _numbers(text: str) -> Iterator[Span]:
    """Looks at runs of seven and more digits; each is at most what its strictest form says."""
    for run in _RUN.finditer(text):
        start, end = run.span()
        while start and text[start - 1] in "+(" and run.start() - start < 2:
            start -= 1
        before, after = _SENTENCE_END.split(text[max(0, start - _CONTEXT) : start])[-1], text[end : end + 12]
        spans = list(_in_run(text, start, end, before))
        yield from spans
        if not spans and not _GLUED.search(before[-1:] + "0" + after[:1]) and _is_phone(text[start:end], before, after):
            yield Span("phone", start + (text[start] == "(" and ")" not in text[start:end]), end)


def _in_run(text: str, start: int, end: int, before: str) -> Iterator[Span]:
    taken: list[Span] = []
    for kind, pattern, holds in _FORMS:
        for match in pattern.finditer(text, start, end + 2):  # what follows a number tells whether it ends there
            span = Span(kind, match.start(), match.end())
            if _free(span, taken) and holds(re.sub(r"[ -]", "", match.group()), before):
                taken.append(span)
                yield span


def _is_id_card(number: str, before: str) -> bool:
    return id_card_valid(number)


def id_card_valid(number: str) -> bool:
    """Returns whether 18 characters are a Chinese identity card number (GB 11643-1999): province, date, checksum."""
    if not 11 <= int(number[:2]) <= 82:
        return False
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(number[:17]))
    return 1800 <= born.year <= 2100 and "10X98765432"[total % 11] == number[17].upper()


def _is_card(number: str, before: str) -> bool:
    if not luhn_valid(number) or len(set(number)) < 3:
        return False
    for issuer in table("privacy")["bank_cards"]:
        first, last = issuer["prefixes"]
        if first <= number[: len(first)] <= last and len(number) in issuer["lengths"]:
            return not issuer.get("weak") or bool(_pattern("card_words").search(before))
    return False


def luhn_valid(number: str) -> bool:
    """Returns whether the last digit of a card number is its check digit (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_anything(number: str, before: str) -> bool:
    return True


_FORMS: tuple[tuple[Pii, re.Pattern[str], Callable[[str, str], bool]], ...] = (
    ("id_card", _ID_CARD, _is_id_card),
    ("bank_card", _CARD, _is_card),
    ("phone", _MOBILE_ZH, _is_anything),
    ("phone", _LANDLINE_ZH, _is_anything),
    ("phone", _AMERICAN, _is_anything),
)


def _is_phone(number: str, before: str, after: str) -> bool:
    """An international number of a possible length, or a national one that a word like "phone" stands beside."""
    if number.startswith(("+", "(+")):
        import phonenumbers

        try:
            # Possible, not valid: numbering plans change, and 555-01xx is nobody's but still a phone number.
            return phonenumbers.is_possible_number(phonenumbers.parse(number.lstrip("("), None))
        except phonenumbers.NumberParseException:
            return False
    digits = re.sub(r"\D", "", number.split("x")[0].split("e")[0])
    grouped = not number.isdigit()
    # No subscriber number without its area code starts with 0 or 1, in China or in America.
    bare_local = len(digits) <= 8 and not grouped and digits[0] in "01"
    if not 7 <= len(digits) <= 14 or bare_local or _NO_PHONE.fullmatch(number.strip("()")):
        return False
    return bool(_pattern("phone_words").search(before) or _pattern("phone_words_after").search(after))


class _Finder(NamedTuple):
    kinds: frozenset[str]
    find: Callable[[str], Iterator[Span]]


_FINDERS = {
    "keys": _Finder(frozenset({"key"}), _keys),
    "mail": _Finder(frozenset({"mail", "credentials"}), _mail),
    "ibans": _Finder(frozenset({"iban"}), _ibans),
    "addresses": _Finder(frozenset({"ip"}), _addresses),
    "numbers": _Finder(frozenset({"phone", "id_card", "bank_card"}), _numbers),
}
