"""Groups of documents that are the same or nearly so: from shared keys to pairs, from pairs to groups.

A document is known by its rank, a number that orders the corpus. Every function sees one partition of the keys or the
ranks; what they give does not depend on how the corpus was divided, nor on the order of the input.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmyard.core.compiled import I64, U64, Bools, compiled


def stars(keys: npt.NDArray[np.generic], ranks: I64) -> tuple[I64, I64]:
    """Returns (rank, least rank with the same key) for every rank but the least of its key.

    Args:
        keys: One or more a rank, shape (n,); any type that sorts.
        ranks: The rank each key belongs to, shape (n,).
    """
    order = np.lexsort((ranks, keys))
    keys, ranks = keys[order], ranks[order]
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    leaders = ranks[first]
    least = np.repeat(leaders, np.diff(np.append(np.flatnonzero(first), len(keys))))
    others = ranks != least
    return distinct(ranks[others], least[others])


def common(keys: U64, ranks: I64, documents: int) -> U64:
    """Returns the keys, sorted, that belong to more different ranks than ``documents``."""
    order = np.lexsort((ranks, keys))
    keys, ranks = keys[order], ranks[order]
    different = np.ones(len(keys), bool)
    different[1:] = (keys[1:] != keys[:-1]) | (ranks[1:] != ranks[:-1])
    found, counts = np.unique(keys[different], return_counts=True)
    shared: U64 = found[counts > documents]
    return shared


def distinct(left: I64, right: I64) -> tuple[I64, I64]:
    """Returns the pairs once each, sorted."""
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    keep = np.ones(len(left), bool)
    keep[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return left[keep], right[keep]


def components(left: I64, right: I64) -> tuple[I64, I64]:
    """Returns (rank, least rank of its connected component) for every rank that is not the least of its component."""
    nodes, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    roots = nodes[_union(places[: len(left)], places[len(left) :], len(nodes))]
    others = nodes != roots
    return nodes[others], roots[others]


@compiled
def _union(left: I64, right: I64, count: int) -> I64:
    """Returns the least member of each place's component; places are sorted like their ranks."""
    root = np.arange(count)
    for pair in range(len(left)):
        one, other = left[pair], right[pair]
        while root[one] != one:
            root[one] = root[root[one]]
            one = root[one]
        while root[other] != other:
            root[other] = root[root[other]]
            other = root[other]
        if one < other:
            root[other] = one
        else:
            root[one] = other
    for place in range(count):
        root[place] = root[root[place]]
    return root


# Components of a graph that no task can hold, by rounds over its partitions: large-star and small-star take turns
# until nothing changes (Kiveris et al. 2014, Connected Components in MapReduce and Beyond). A task has all pairs of its
# nodes.


def large_star(node: I64, neighbour: I64) -> tuple[I64, I64]:
    """Returns (greater neighbour, least of node and its neighbours) for all nodes, given each pair from both ends."""
    return _toward_least(node, neighbour, keep=neighbour > node, with_node=False)


def small_star(node: I64, neighbour: I64) -> tuple[I64, I64]:
    """Returns (neighbour or node, least neighbour), given each pair from its greater rank."""
    return _toward_least(node, neighbour, keep=np.ones(len(node), bool), with_node=True)


def _toward_least(node: I64, neighbour: I64, keep: Bools, with_node: bool) -> tuple[I64, I64]:
    if not len(node):
        return node, neighbour
    order = np.lexsort((neighbour, node))
    node, neighbour, keep = node[order], neighbour[order], keep[order]
    starts = np.flatnonzero(np.append(True, node[1:] != node[:-1]))
    least = np.minimum(neighbour[starts], node[starts])
    spread = np.repeat(least, np.diff(np.append(starts, len(node))))
    left, right = neighbour[keep], spread[keep]
    if with_node:
        left, right = np.concatenate([left, node[starts]]), np.concatenate([right, least])
    apart = left != right
    return distinct(left[apart], right[apart])
