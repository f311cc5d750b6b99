"""Made-up personal identifiers, valid and invalid. None can be anybody's: birth years before 1900, test card ranges,
documentation addresses (RFC 5737, RFC 2606), 555-01xx numbers and the unassigned Chinese mobile prefix 154."""

from __future__ import annotations

from collections.abc import Callable

from llmyard.sources.smallworld.draws import Draws
from llmyard.sources.smallworld.meaning import Language

ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999
ID_CHECKS = "10X98765432"


def id_card_check(digits: str) -> str:
    """The last character of a Chinese identity card number, from its first 17 digits (GB 11643-1999)."""
    return ID_CHECKS[sum(int(d) * w for d, w in zip(digits, ID_WEIGHTS, strict=True)) % 11]


def luhn_check(digits: str) -> str:
    """The check digit that follows these digits of a bank card number (ISO/IEC 7812-1)."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if i % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def digits(draws: Draws, count: int) -> str:
    """So many random digits."""
    return "".join(str(draws.below(10)) for _ in range(count))


def spoilt(draws: Draws, check: str, alphabet: str) -> str:
    """Another check character."""
    return draws.pick([c for c in alphabet if c != check])


def id_card(draws: Draws, language: Language, valid: bool) -> str:
    """A Chinese identity card number of somebody born in the 1890s."""
    region = draws.pick(("110101", "310104", "440106", "510107", "330102"))
    body = f"{region}{1890 + draws.below(10)}{1 + draws.below(12):02}{1 + draws.below(28):02}{digits(draws, 3)}"
    check = id_card_check(body)
    return body + (check if valid else spoilt(draws, check, ID_CHECKS))


def bank_card(draws: Draws, language: Language, valid: bool) -> str:
    """A card number in a range that payment companies use for tests."""
    body = ("620000" if language == "zh" else "400000") + digits(draws, 9)
    check = luhn_check(body)
    return body + (check if valid else spoilt(draws, check, "0123456789"))


def mail(draws: Draws, language: Language, valid: bool) -> str:
    """An address under example.com and the like; an invalid one lacks its domain's dot."""
    name = "".join(draws.pick(("ba", "ko", "mi", "ru", "ten", "sol")) for _ in range(3))
    return f"{name}{draws.below(100)}@" + (
        draws.pick(("example.com", "example.org", "example.net")) if valid else "example"
    )


def phone(draws: Draws, language: Language, valid: bool) -> str:
    """A phone number; an invalid one is too short."""
    if language == "zh":
        return "154" + digits(draws, 8 if valid else 5)
    area = 201 + draws.below(700)
    return f"+1-{area}-555-01{digits(draws, 2)}" if valid else f"+1-{area}-55-{digits(draws, 1)}"


def ip(draws: Draws, language: Language, valid: bool) -> str:
    """An IPv4 address of the documentation blocks; an invalid one has a part above 255."""
    block = draws.pick(("192.0.2", "198.51.100", "203.0.113"))
    return f"{block}.{1 + draws.below(254) if valid else 256 + draws.below(700)}"


IDENTIFIERS: dict[str, Callable[[Draws, Language, bool], str]] = {
    "id_card": id_card,
    "bank_card": bank_card,
    "mail": mail,
    "phone": phone,
    "ip": ip,
}
