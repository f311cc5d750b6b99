"""``prepare`` at scale: speed, against plain kernels and against datatrove; memory; duplicates found.

    bash cluster/local bench data [--sizes 200,1000,4000] [--languages en,zh] [--corpus FOLDER]
        [--datatrove ITS_VENV] [--datatrove-megabytes 100] [--only dedup,defects,speed] [--json]

CPU-seconds are those of the command and all processes below it. A corpus is made once and kept where ``--corpus`` names
a folder. datatrove lives in an environment of its own (``pip install "datatrove[io,processing,multilingual]"``) and is
left out, with the reason printed, where none is given; it takes hours for gigabytes, so it gets a smaller corpus.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _corpora import Language, documents, edited
from _data_speed import compare, speed

LANGUAGES: tuple[Language, ...] = ("en", "zh")


def dedup(pairs: int = 3000) -> dict[str, Any]:
    """Measures recall over pairs spread evenly over true similarity 0.8 to 1.0, and precision beside unrelated ones."""
    from llmyard.text.duplicates import components, stars
    from llmyard.text.minhash import band_keys, bands_for, shingles_of
    from llmyard.text.units import units_of

    results: dict[str, Any] = {}
    bands, rows = bands_for(0.8)
    for language in LANGUAGES:
        random_ = np.random.Generator(np.random.Philox(key=3))
        originals = documents(language, pairs, random_)
        copies = [edited(text, language, random_.uniform(0, 0.03), random_) for text in originals]
        units = units_of(_column([*originals, *copies]))
        similarity = np.array([_jaccard(shingles_of(units, at), shingles_of(units, pairs + at)) for at in range(pairs)])
        keys = band_keys(units, bands, rows)
        ranks = np.repeat(np.arange(2 * pairs), bands)
        nodes, roots = components(*stars(keys.reshape(-1), ranks))
        root = dict(zip(nodes.tolist(), roots.tolist(), strict=True))
        chosen = _evenly(similarity, 0.8, 1.0)
        hits = sum(root.get(pairs + at) == root.get(at, at) for at in chosen)
        wrong = sum(root_of % pairs != node % pairs for node, root_of in root.items())
        results[f"dedup_recall_{language}"] = hits / len(chosen)
        results[f"dedup_pairs_{language}"] = len(chosen)
        results[f"dedup_precision_{language}"] = 1 - wrong / max(1, len(root))
    results["dedup_precision"] = min(results[f"dedup_precision_{language}"] for language in LANGUAGES)
    return results


def defects(count: int = 12_000) -> dict[str, Any]:
    """Measures what becomes of smallworld's planted damage: the share of each kind that goes, and of clean texts that
    stay; near copies by their similarity; spans of personal data that are masked or rightly left.
    """
    import pyarrow as pa

    from llmyard.sources.smallworld import SmallWorld
    from llmyard.sources.smallworld.lexicon import lexicon
    from llmyard.text.clean import clean
    from llmyard.text.config import Cleaning

    world = SmallWorld("dev", seed=11, documents=count)
    planted = [world.document(at) for at in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder, "words.txt")
        words.write_text("\n".join(word for each in lexicon().data["placeholder_slurs"].values() for word in each))
        steps = ["encoding", "html", "normalize", "language", "boilerplate", "quality", "toxicity", "privacy"]
        config = Cleaning.model_validate({"clean": steps, "toxicity": {"lists": [str(words)], "max_density": 0}})
        rows = [[each.id, each.text, "smallworld", "", ""] for each in planted]
        names = ["id", "text", "source", "language", "url"]
        cleaned = clean(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), config)
    place = {each.id: at for at, each in enumerate(planted)}
    ranks = np.array([place[name] for name in cleaned.kept["id"].to_pylist()])
    root = _groups(cleaned, ranks)
    kept = set(ranks.tolist()) - set(root)
    language = dict(zip(ranks.tolist(), cleaned.kept["language"].to_pylist(), strict=True))
    shares: dict[str, list[float]] = {}
    for at, each in enumerate(planted):
        true = each.labels.get("true_language") or each.language
        if at in language:
            shares.setdefault("language_right", []).append(language[at] == true)
        if "similarity" in each.labels and at in set(ranks.tolist()) and place[each.labels["copy_of"]] in language:
            low = int(each.labels["similarity"] * 10) / 10
            shares.setdefault(f"near_copies_{low:.1f}_found", []).append(
                at in root or place[each.labels["copy_of"]] in root
            )
        elif each.damage == "exact_duplicate":
            shares.setdefault("exact_duplicate_found", []).append(at in root or place[each.labels["copy_of"]] in root)
        elif "look_alike_of" in each.labels:
            shares.setdefault("look_alike_kept", []).append(at in kept)
        elif each.damage in ("mojibake", "boilerplate", "slur", "word_salad"):
            shares.setdefault(f"{each.damage}_dropped", []).append(at not in kept)
        elif not each.damage and not each.group:
            shares.setdefault("clean_kept", []).append(at in kept)
    shares["mojibake_dropped_or_repaired"] = [
        at not in kept or "�" not in cleaned.kept["text"][int(np.flatnonzero(ranks == at)[0])].as_py()
        for at, each in enumerate(planted)
        if each.damage == "mojibake"
    ]
    return {f"smallworld_{key}": sum(found) / len(found) for key, found in sorted(shares.items())}


def _groups(cleaned: Any, ranks: Any) -> dict[int, int]:
    """Returns the first of its group for every document that is a copy."""
    from llmyard.text.duplicates import components, stars
    from llmyard.text.minhash import band_keys, bands_for

    keys = band_keys(cleaned.units, *bands_for(0.8))
    digests = np.frombuffer(cleaned.kept["digest"].combine_chunks().buffers()[1], "S16")
    pairs = [stars(digests, ranks), stars(keys.reshape(-1), np.repeat(ranks, keys.shape[1]))]
    nodes, roots = components(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    return dict(zip(nodes.tolist(), roots.tolist(), strict=True))


def _column(texts: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(texts, pa.large_string())


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / max(1, len(one | other))


def _evenly(similarity: Any, low: float, high: float, bins: int = 10) -> list[int]:
    """Returns as many pairs from each bin of similarity."""
    draw = random.Random(1)
    edges = np.linspace(low, high, bins + 1)
    groups = [np.flatnonzero((similarity >= edges[at]) & (similarity < edges[at + 1])).tolist() for at in range(bins)]
    size = min(len(group) for group in groups)
    return [each for group in groups for each in draw.sample(group, size)]


def speeds(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measures all languages asked for; the key without a language is the slower one's."""
    found: dict[str, Any] = {}
    for language in options.languages.split(","):
        found[language] = speed(language, [float(size) for size in options.sizes.split(",")], folder)
        if options.datatrove:
            found[language] |= compare(options.datatrove, language, options.datatrove_megabytes, folder)
            theirs = found[language]["datatrove_mb_per_s_per_core"]
            found[language]["ratio_to_datatrove"] = found[language]["mb_per_s_per_core"] / theirs
    for key, worst in (
        ("mb_per_s_per_core", min), ("mb_per_s_per_core_slope", min), ("ratio_to_datatrove", min),
        ("ray_overhead", max), ("rss_growth", max),
    ):  # fmt: skip
        values = [each[key] for each in found.values() if isinstance(each, dict) and key in each]
        if values:
            found[key] = worst(values)
    return found


def main() -> None:
    """Runs the benchmarks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="200,1000,4000", help="megabytes of JSON lines, two or more, rising")
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--corpus", help="where corpora are kept; by default they are made and removed")
    parser.add_argument("--datatrove", help="its virtual environment")
    parser.add_argument("--datatrove-megabytes", type=float, default=100)
    parser.add_argument("--only", default="dedup,defects,speed", help="some of dedup, defects, speed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.datatrove and "speed" in options.only:
        print("datatrove: left out, no --datatrove environment is given", file=sys.stderr)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ly-corpus-") as temporary:
        folder = Path(options.corpus or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.only.split(","):
            found |= {"dedup": dedup, "defects": defects}[name]() if name != "speed" else speeds(options, folder)
    for language in LANGUAGES:
        for key, value in found.get(language, {}).items():
            if key != "runs":
                print(f"{language} {key:30} {value:.4g}")
    for key, value in found.items():
        if key not in LANGUAGES:
            print(f"{key:33} {value:.4g}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
