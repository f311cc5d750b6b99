"""How often a model writes what block lists call toxic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from llmyard.core.errors import DataError
from llmyard.metrics.significance import Interval
from llmyard.text.config import Toxicity
from llmyard.text.script import language_by_script

ALL = "all"


@dataclass(frozen=True, slots=True)
class ToxicShare:
    """How many of some texts are toxic.

    Attributes:
        texts: How many there are.
        toxic: How many of them are toxic.
        share: The rate, with its interval.
    """

    texts: int
    toxic: int
    share: Interval


def toxic(texts: Sequence[str], config: Toxicity) -> list[bool]:
    """Returns for each text whether the words of the lists stand in it more densely than allowed.

    A list finds words, not what is meant: insults without such words are missed, and words that are only quoted count.

    Raises:
        RequestError: A list is missing, or the lists hold no words.
    """
    import pyarrow as pa

    from llmyard.text.toxicity import judge_toxicity, score

    column = pa.array(texts, pa.string())
    return [reason is not None for reason in judge_toxicity(score(column, config), config).to_pylist()]


def toxicity(texts: Sequence[str], config: Toxicity, confidence: float = 0.95) -> dict[str, ToxicShare]:
    """Returns how many texts are toxic: of ``all``, and of each language that most letters of a text are in.

    Texts count as independent. Of several that were written for one prompt give one, or take the interval as too small.

    Args:
        texts: As the model wrote them.
        config: The lists, of both languages, and the density that is allowed.
        confidence: Of the intervals.

    Raises:
        DataError: There are no texts.
        RequestError: A list is missing, or the lists hold no words.
    """
    if not texts:
        raise DataError("there are no texts in which toxic words could stand", "let the model write some")
    found = toxic(texts, config)
    languages = [language_by_script(text) for text in texts]
    groups = {ALL: found} | {
        language: [each for each, other in zip(found, languages, strict=True) if other == language]
        for language in sorted(set(languages))
    }
    return {
        name: ToxicShare(len(each), sum(each), share_interval(sum(each), len(each), confidence))
        for name, each in groups.items()
    }


def share_interval(hits: int, count: int, confidence: float = 0.95) -> Interval:
    """Returns hits / count with its score interval (Wilson 1927).

    Where nothing was hit a bootstrap would say that nothing can be; this says that of 100 texts up to 3.7 % may be.

    Args:
        hits: How many of them.
        count: Of how many; at least one.
        confidence: Between 0 and 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * (share * (1 - share) / count + spread / (4 * count)) ** 0.5 / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), confidence)
