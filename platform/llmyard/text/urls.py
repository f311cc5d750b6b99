"""Documents judged by their address: blocked domains, and blocked words between the separators of an address."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.core.errors import RequestError
from llmyard.text.automaton import Automaton
from llmyard.text.config import Urls
from llmyard.text.tables import lines_of

_HOST = r"^(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//(?:[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:@]+)"


def judge_urls(urls: pa.ChunkedArray | pa.Array, config: Urls) -> Any:
    """Returns for each address ``blocked_domain``, ``blocked_word``, or null to keep its document.

    A word counts between separators only, so that essex.ac.uk is not taken for a word it holds. Null and
    empty addresses are kept.

    Raises:
        RequestError: A list cannot be read, or is empty.
    """
    lists = _lists(config.domains, config.words)
    whole = urls.combine_chunks() if isinstance(urls, pa.ChunkedArray) else urls
    whole = pc.fill_null(whole, "")
    reason = np.full(len(whole), None, object)
    if lists.words:
        reason[np.unique(lists.words.find(whole).row)] = "blocked_word"
    if lists.domains:
        hosts = hosts_of(whole).dictionary_encode()
        blocked = np.array([_is_blocked(host, lists.domains) for host in hosts.dictionary.to_pylist()], np.bool_)
        reason[blocked[hosts.indices.to_numpy(zero_copy_only=False)]] = "blocked_domain"
    return pa.array(reason, pa.string())


def hosts_of(urls: pa.Array) -> Any:
    """Returns the host of each address in lower case without port, "" where there is none."""
    host = pc.struct_field(pc.extract_regex(urls, _HOST), "host")
    return pc.utf8_rtrim(pc.utf8_lower(pc.fill_null(host, "")), ".")


class _Lists(NamedTuple):
    domains: frozenset[str]
    words: Automaton | None


@cache
def _lists(domain_files: tuple[str, ...], word_files: tuple[str, ...]) -> _Lists:
    # The last column: hosts files say "0.0.0.0 bad.example".
    domains = {line.split()[-1].lower().strip(".") for file in domain_files for line in lines_of(file)}
    words = sorted({line for file in word_files for line in lines_of(file)})
    for files, entries in ((domain_files, domains), (word_files, words)):
        if files and not entries:
            raise RequestError(f"the lists {', '.join(files)} are empty", "write one entry a line, or leave them out")
    return _Lists(frozenset(domains), Automaton(words, dict.fromkeys("-_+.", " ")) if words else None)


def _is_blocked(host: str, domains: frozenset[str]) -> bool:
    while host:
        if host in domains:
            return True
        host = host.partition(".")[2]
    return False
