"""Groups of duplicates: the same as those of a naive search, however the pairs are divided."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.text.duplicates import components, large_star, small_star, stars

Pairs = list[tuple[int, int]]
PAIRS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda pair: pair[0] != pair[1]), max_size=40)


def arrays(pairs: Pairs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    flat = np.array(pairs, np.int64).reshape(-1, 2)
    return flat[:, 0].copy(), flat[:, 1].copy()


def naive(pairs: Pairs) -> dict[int, int]:
    """Every node that is not the least of its component, and that least."""
    group = {node: {node} for pair in pairs for node in pair}
    for left, right in pairs:
        merged = group[left] | group[right]
        for node in merged:
            group[node] = merged
    return {node: min(members) for node, members in group.items() if node != min(members)}


@given(PAIRS)
@settings(deadline=None)
def test_components_are_those_of_a_naive_search(pairs: Pairs) -> None:
    nodes, roots = components(*arrays(pairs))
    assert dict(zip(nodes.tolist(), roots.tolist(), strict=True)) == naive(pairs)


@given(PAIRS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_rounds_over_partitions_find_the_same_components(pairs: Pairs, partitions: int) -> None:
    edges = {(max(pair), min(pair)) for pair in pairs}

    def rounds(step: object, given_: set[tuple[int, int]], both: bool) -> set[tuple[int, int]]:
        divided: dict[int, Pairs] = defaultdict(list)
        for left, right in given_:
            divided[left % partitions].append((left, right))
            if both:
                divided[right % partitions].append((right, left))
        found: set[tuple[int, int]] = set()
        for part in divided.values():
            left, right = step(*arrays(part))  # type: ignore[operator]
            found |= set(zip(left.tolist(), right.tolist(), strict=True))
        return found

    for _ in range(50):
        after = rounds(small_star, rounds(large_star, edges, True), False)
        if after == edges:
            break
        edges = after
    assert dict(edges) == naive(pairs)
    assert len(dict(edges)) == len(edges)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=40))
@settings(deadline=None)
def test_stars_point_to_the_least_rank_of_a_key(rows: Pairs) -> None:
    keys, ranks = arrays(rows)
    left, right = stars(keys, ranks)
    wanted = set()
    for key in set(keys.tolist()):
        members = {rank for at, rank in rows if at == key}
        wanted |= {(rank, min(members)) for rank in members if rank != min(members)}
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == wanted
