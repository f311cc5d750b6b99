"""URL rules: domains with their subdomains, words between separators, and harmless names that hold a word."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from llmyard.core.errors import RequestError
from llmyard.text.config import Urls
from llmyard.text.urls import hosts_of, judge_urls


@pytest.fixture
def config(tmp_path: Path) -> Urls:
    (tmp_path / "domains").write_text("# blocked\nbad.example\n0.0.0.0 Worse.Example\n坏站.example\n", "utf-8")
    (tmp_path / "words").write_text("sex\ncunt\ncasino\nfree spins\n赌场\n", "utf-8")
    return Urls(domains=(str(tmp_path / "domains"),), words=(str(tmp_path / "words"),))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://bad.example/", "blocked_domain"),
        ("http://www.BAD.example:8080/path?x=1", "blocked_domain"),
        ("//cdn.worse.example./x", "blocked_domain"),
        ("https://user:pass@bad.example", "blocked_domain"),
        ("https://坏站.example/页", "blocked_domain"),
        ("https://casino.example.org/", "blocked_word"),
        ("https://example.org/best-CASINO-2024.html", "blocked_word"),
        ("https://example.org/?q=sex&page=2", "blocked_word"),
        ("https://example.org/free_spins/", "blocked_word"),
        ("https://example.org/网上赌场/", "blocked_word"),
        ("https://www.essex.ac.uk/", None),
        ("https://sussex.example/middlesex", None),
        ("https://www.scunthorpe.gov.uk/casinos", None),
        ("https://notbad.example/", None),
        ("https://bad.example.org/", None),
        ("https://example.org/bad.example", None),
        ("https://example.org/?next=//bad.example/", None),
        ("mailto:a@bad.example", None),
        ("", None),
        (None, None),
    ],
)
def test_addresses_are_judged(url: str | None, reason: str | None, config: Urls) -> None:
    assert judge_urls(pa.array([url], pa.string()), config).to_pylist() == [reason]


def test_whole_columns_and_single_lists(config: Urls) -> None:
    urls = pa.chunked_array([["https://bad.example", "https://a.org/casino"], ["https://a.org"]])
    assert judge_urls(urls, config).to_pylist() == ["blocked_domain", "blocked_word", None]
    assert judge_urls(urls, Urls(domains=config.domains)).to_pylist() == ["blocked_domain", None, None]
    assert judge_urls(urls, Urls(words=config.words)).to_pylist() == [None, "blocked_word", None]
    assert judge_urls(pa.array([], pa.string()), config).to_pylist() == []


def test_hosts() -> None:
    urls = pa.array(["http://[2001:db8::1]:80/x", "https://A.b.:443", "ftp://u@h/p@q", "no address"])
    assert hosts_of(urls).to_pylist() == ["[2001:db8::1]", "a.b", "h", ""]


def test_missing_and_empty_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="name at least one list"):
        Urls()
    with pytest.raises(RequestError, match="cannot read the list"):
        judge_urls(pa.array(["x"]), Urls(domains=(str(tmp_path / "none"),)))
    (tmp_path / "empty").write_text("\n", "utf-8")
    with pytest.raises(RequestError, match="are empty"):
        judge_urls(pa.array(["x"]), Urls(words=(str(tmp_path / "empty"),)))
