"""The cleaning steps of one batch of documents, in the order the job gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.text.config import Cleaning
from llmyard.text.digests import digests
from llmyard.text.funnel import Funnel, tally
from llmyard.text.histograms import Histograms, histograms
from llmyard.text.quality import CHINESE_SHARE, Counts, han_share, judge
from llmyard.text.statistics import statistics
from llmyard.text.units import Units, units_of

COLUMNS = ("id", "text", "source", "language", "url")
SCHEMA = pa.schema([*((name, pa.string()) for name in COLUMNS), ("units", pa.int32()), ("digest", pa.binary(16))])
REMOVED = pa.schema([(name, pa.string()) for name in ("id", "source", "language", "reason")])
SAMPLES = 3
EXCERPT = 300
GUESSED_BYTES = 600


@dataclass(frozen=True, slots=True)
class Sample:
    """A document that a report shows, cut to an excerpt."""

    id: str
    language: str
    text: str


@dataclass
class Cleaned:
    """What a batch became.

    Attributes:
        kept: Columns of :data:`SCHEMA`; ``units`` is how many units a text has (``units.py``).
        units: Of the kept texts.
        counts: Documents by what happened to them: ``read``, ``clean``, ``dropped_REASON``, ``masked_KIND`` ...
        funnel: Documents and characters after every step, by source and language.
        removed: Columns of :data:`REMOVED`, the dropped documents.
        samples: Reason to a few documents dropped for it; "" to a few that were kept.
        histograms: Of the kept ones.
    """

    kept: pa.Table
    units: Units
    counts: Counter[str] = field(default_factory=Counter)
    funnel: Funnel = field(default_factory=Counter)
    removed: pa.Table = field(default_factory=REMOVED.empty_table)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    histograms: Histograms = field(default_factory=Counter)


class Batch:
    """Documents on their way through the steps; what is counted of a text is counted once until it changes."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self._statistics: Counts | None = None
        self._units: Units | None = None
        self.outcome = Cleaned(table, Units(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(1, np.int64)))

    @property
    def text(self) -> Any:
        """The texts."""
        return self.table["text"]

    @property
    def statistics(self) -> Counts:
        """What quality rules count."""
        if self._statistics is None:
            self._statistics = statistics(self.text)
        return self._statistics

    @property
    def units(self) -> Units:
        """The texts' units."""
        if self._units is None:
            self._units = units_of(self.text)
        return self._units

    def replace(self, **columns: Any) -> None:
        """Puts other columns in place."""
        for name, values in columns.items():
            self.table = self.table.set_column(self.table.schema.get_field_index(name), name, values)
            if name == "text":
                self._statistics = self._units = None

    def drop(self, reasons: Any) -> None:
        """Drops the documents that have a reason, and keeps a few of them as samples."""
        if reasons.null_count == len(reasons):
            return
        for item in pc.value_counts(reasons).to_pylist():
            if item["values"] is not None:
                chosen = self.table.filter(pc.equal(reasons, item["values"])).slice(0, SAMPLES)
                self.outcome.counts[f"dropped_{item['values']}"] += item["counts"]
                self.outcome.samples[item["values"]] = samples_of(chosen)
        mask = pc.is_null(reasons)
        gone = self.table.select(REMOVED.names[:-1]).append_column("reason", reasons).filter(pc.invert(mask))
        self.outcome.removed = pa.concat_tables([self.outcome.removed, gone.cast(REMOVED)])
        keep: npt.NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False)
        self.table = self.table.filter(mask)
        if self._statistics is not None:
            self._statistics = {name: values[keep] for name, values in self._statistics.items()}
        if self._units is not None:
            self._units = self._units.filter(keep)

    def count(self, step: str) -> None:
        """Notes how many documents and characters are left after a step."""
        characters = pc.utf8_length(self.text)
        self.outcome.funnel.update(tally(step, self.table["source"], self.table["language"], characters=characters))


def clean(documents: pa.Table, config: Cleaning) -> Cleaned:
    """Returns the documents after all steps that see one document at a time.

    Args:
        documents: Columns id, text, source, language and url; language "" where unknown.
        config: The steps and their settings.
    """
    batch = Batch(documents.select(COLUMNS))
    outcome = batch.outcome
    outcome.counts["read"] = len(documents)
    guess_language(batch)
    batch.count("read")
    for step in config.clean:
        if step in STEPS:
            STEPS[step](batch, config)
            batch.count(step)
    outcome.counts["clean"] = len(batch.table)
    outcome.counts["characters"] = int(batch.statistics["characters"].sum())
    outcome.samples[""] = samples_of(batch.table.slice(0, SAMPLES))
    outcome.units = batch.units
    lengths = pa.array(np.diff(batch.units.offsets), pa.int32())
    kept = batch.table.append_column("units", lengths).append_column("digest", digests(batch.text))
    outcome.kept = kept.cast(SCHEMA)
    outcome.histograms = histograms(batch.table["language"], batch.statistics)
    return outcome


def guess_language(batch: Batch) -> None:
    """Gives documents of unknown language the one that the script of their beginning suggests."""
    known = batch.table["language"]
    unknown = pc.equal(known, "")
    if pc.any(unknown).as_py():
        beginnings = pc.binary_slice(pc.cast(batch.text, pa.binary()), 0, GUESSED_BYTES)
        guessed = np.where(han_share(statistics(beginnings)) > CHINESE_SHARE, "zh", "en").astype(object)
        batch.replace(language=pc.if_else(unknown, pa.array(guessed, pa.string()), known))


def samples_of(documents: pa.Table) -> list[Sample]:
    """Returns the first characters of documents, for people to look at."""
    texts = pc.utf8_slice_codeunits(documents["text"], 0, EXCERPT).to_pylist()
    return [
        Sample(*row) for row in zip(documents["id"].to_pylist(), documents["language"].to_pylist(), texts, strict=True)
    ]


def _encoding(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.encoding import repair

    repaired = repair(batch.text, batch.table["language"], config.encoding)
    batch.replace(text=repaired.texts)
    batch.outcome.counts.update(repaired.counts)


def _html(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.html import extract

    extracted = extract(batch.text, config.html)
    batch.replace(text=extracted.texts)
    batch.outcome.counts.update({f"html_{key}": count for key, count in extracted.counts.items()})


def _normalize(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.normalize import normalize

    batch.replace(text=normalize(batch.text))


def _boilerplate(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.boilerplate import outside_frames, strip_boilerplate

    outside = outside_frames(batch.table["id"], batch.text)
    if outside.any():
        batch.drop(pa.array(["frame"] * len(outside), pa.string(), mask=~outside))
    stripped = strip_boilerplate(batch.text, config.boilerplate)
    batch.replace(text=stripped.texts)
    batch.outcome.counts.update({f"boilerplate_{key}": count for key, count in stripped.counts.items()})


def _urls(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.urls import judge_urls

    assert config.urls is not None
    batch.drop(judge_urls(batch.table["url"], config.urls))


def _language(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.language import identify, judge_language

    found = identify(batch.text)
    batch.replace(language=found.language)
    batch.drop(judge_language(found, config.language))


def _lines(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.language import keep_lines

    kept = keep_lines(batch.text, config.language)
    batch.replace(text=kept.texts)
    batch.outcome.counts["lines_of_other_languages"] += kept.dropped


def _quality(batch: Batch, config: Cleaning) -> None:
    units = batch.units if config.quality.repetition is not None else None
    batch.drop(judge(batch.text, config.quality, batch.statistics, units))


def _perplexity(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.perplexity import judge_perplexity, model_of

    assert config.perplexity is not None
    model = model_of(config.perplexity)
    batch.drop(judge_perplexity(batch.units, batch.table["language"], model, config.perplexity))


def _classifier(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.classifier import judge_classifier, model_of

    assert config.classifier is not None
    batch.drop(judge_classifier(batch.units, model_of(config.classifier), config.classifier))


def _toxicity(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.toxicity import judge_toxicity, score

    assert config.toxicity is not None
    batch.drop(judge_toxicity(score(batch.text, config.toxicity), config.toxicity))


def _privacy(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.privacy import mask

    masked = mask(batch.text, config.privacy)
    batch.replace(text=masked.texts)
    batch.outcome.counts.update({f"masked_{kind}": count for kind, count in masked.counts.items()})


def _functions(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.functions import function_of

    for path in config.functions:
        batch.drop(function_of(path)(batch.table))


def _decontaminate(batch: Batch, config: Cleaning) -> None:
    from llmyard.text.decontaminate import judge_overlap

    assert config.decontaminate is not None
    unspaced = batch.statistics["syllables"] > 0.5 * batch.statistics["words"]
    batch.drop(judge_overlap(batch.units, unspaced, config.decontaminate))


STEPS: dict[str, Callable[[Batch, Cleaning], None]] = {
    "encoding": _encoding,
    "html": _html,
    "normalize": _normalize,
    "boilerplate": _boilerplate,
    "urls": _urls,
    "language": _language,
    "lines": _lines,
    "quality": _quality,
    "perplexity": _perplexity,
    "classifier": _classifier,
    "toxicity": _toxicity,
    "privacy": _privacy,
    "functions": _functions,
    "decontaminate": _decontaminate,
}
