"""The page that people look at after ``prepare``: what was read, what was dropped and why, what is left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmyard.core.language import Messages, UserLanguage
from llmyard.text.histograms import EDGES

PAGES: dict[UserLanguage, str] = {"en": "report.html", "zh": "report.zh.html"}
# Colours that stay apart for the colour-blind (Okabe and Ito 2008); further languages begin again.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_PLOT_HEIGHT = 96


def pages(name: str, details: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, str]:
    """Returns the report as HTML, one page a language, by file name.

    Args:
        name: Of the shards.
        details: ``funnel``, ``histograms``, ``samples``, ``groups``, ``bad_records``, ``corpus``, ``vocab_size``.
        counts: Documents by what happened to them.
    """
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, loader=FileSystemLoader(folder.parent))
    template = environment.get_template("preparing/report.html")
    messages = Messages(folder / "report.yaml")
    funnel = Counter({tuple(row[:-1]): row[-1] for row in details["funnel"]})
    languages = [language for language, _ in _by(funnel, "read", "documents", 3).most_common()]
    shown = {
        "name": name,
        "languages": languages,
        "colours": {language: _COLOURS[at % len(_COLOURS)] for at, language in enumerate(languages)},
        "sources": ", ".join(str(item.get("name") or item["kind"]) for item in details["corpus"]["sources"]),
        "funnel": _funnel(funnel, languages),
        "by_source": _by_source(funnel),
        "dropped": _dropped(counts),
        "masked": [{"kind": key[7:], "count": counts[key]} for key in sorted(counts) if key.startswith("masked_")],
        "plots": _plots(details["histograms"], languages),
        "groups": details["groups"],
        "compression": _compression(funnel),
        "kept_samples": details["samples"].get("", ()),
        "dropped_samples": sorted((key, found) for key, found in details["samples"].items() if key),
        "bad": details["bad_records"],
    }
    made = {}
    for language, page in PAGES.items():
        say = messages.in_language(language)
        kept, read = (sum(_by(funnel, step, "documents", 3).values()) for step in ("kept", "read"))
        texts = {
            "summary": say(
                "summary",
                read=f"{read:,}",
                kept=f"{kept:,}",
                share=f"{kept / max(read, 1):.1%}",
                tokens=f"{sum(_by(funnel, 'kept', 'tokens', 3).values()):,}",
            ),
            "duplicates": say(
                "duplicates_note",
                dropped=f"{counts.get('dropped_duplicate', 0):,}",
                exact=f"{counts.get('duplicate_exact', 0):,}",
            ),
            "tokenizer": say("tokenizer_note", size=f"{details['vocab_size']:,}"),
        }
        other = next(file for key, file in PAGES.items() if key != language)
        made[page] = template.render(shown, say=say, language=language, other_page=other, **texts)
    return made


def _by(funnel: Mapping[tuple[str, ...], int], step: str, figure: str, at: int) -> Counter[str]:
    """Returns the sums of a figure after a step, by the source (2) or language (3)."""
    sums: Counter[str] = Counter()
    for key, count in funnel.items():
        if key[:2] == (step, figure):
            sums[key[at]] += count
    return sums


def _funnel(funnel: Mapping[tuple[str, ...], int], languages: Iterable[str]) -> list[dict[str, Any]]:
    steps = list(dict.fromkeys(key[0] for key in funnel))
    rows = []
    for step in steps:
        row: dict[str, Any] = {"step": step}
        for figure in ("documents", "characters"):
            sums = _by(funnel, step, figure, 3)
            whole = max(1, sum(_by(funnel, "read", figure, 3).values()))
            parts = [
                {"language": language, "count": sums[language], "width": round(100 * sums[language] / whole, 2)}
                for language in languages
            ]
            row[figure] = {"total": sum(sums.values()), "parts": parts}
        rows.append(row)
    return rows


def _by_source(funnel: Mapping[tuple[str, ...], int]) -> list[dict[str, Any]]:
    rows = []
    for source, language in sorted({key[2:] for key in funnel}):
        figures = {
            "read": funnel.get(("read", "documents", source, language), 0),
            "kept": funnel.get(("kept", "documents", source, language), 0),
            "characters": funnel.get(("kept", "characters", source, language), 0),
            "tokens": funnel.get(("kept", "tokens", source, language), 0),
        }
        if figures["read"] or figures["kept"]:
            rows.append({"source": source, "language": language, **figures})
    return rows


def _dropped(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    found = sorted(
        ((key[8:], count) for key, count in counts.items() if key.startswith("dropped_") and count),
        key=lambda row: -row[1],
    )
    most = max((count for _, count in found), default=1)
    return [{"reason": reason, "count": count, "width": round(100 * count / most, 2)} for reason, count in found]


def _plots(rows: Iterable[Any], languages: Iterable[str]) -> list[dict[str, Any]]:
    values: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    for figure, language, at, count in rows:
        values[figure][language, at] += count
    plots = []
    for figure, edges in EDGES.items():
        counted = values[figure]
        if not counted:
            continue
        shown = [language for language in languages if any(key[0] == language for key in counted)]
        most = max(counted.values())
        step, bars = 24, []
        for (language, at), count in sorted(counted.items()):
            width = (step - 4) / len(shown)
            height = max(1.0, count / most * _PLOT_HEIGHT)
            edge = f"{edges[at]:g}" if at < len(edges) else "∞"
            x = at * step + 2 + shown.index(language) * width
            bars.append(
                {"x": round(x, 1), "y": round(_PLOT_HEIGHT - height, 1), "width": round(width, 1)}
                | {"height": round(height, 1), "language": language, "edge": edge, "count": count}
            )
        labels = [{"x": (at + 1) * step, "text": f"{edge:,.10g}"} for at, edge in enumerate(edges) if at % 3 == 2]
        plots.append({"figure": figure, "width": (len(edges) + 1) * step, "bars": bars, "labels": labels})
    return plots


def _compression(funnel: Mapping[tuple[str, ...], int]) -> list[dict[str, Any]]:
    sums = {figure: _by(funnel, "kept", figure, 3) for figure in ("tokens", "characters", "bytes", "words")}
    rows = []
    for language, tokens in sums["tokens"].most_common():
        if tokens:
            rows.append(
                {"language": language, "tokens": tokens, "fertility": tokens / max(1, sums["words"][language])}
                | {figure: sums[figure][language] / tokens for figure in ("characters", "bytes")}
            )
    return rows
