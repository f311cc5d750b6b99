"""What a checkpoint is asked beside its task: probes for bias, and tasks of the lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmyard.core.artifacts import Artifact, sha256_of
from llmyard.core.errors import RequestError
from llmyard.evaluation.bias import measured, pairs_of
from llmyard.evaluation.config import BiasProbes, Harness
from llmyard.evaluation.task_files import data_files
from llmyard.stages.config import Evaluate
from llmyard.stages.stage import Making


def probed(config: Evaluate, making: Making) -> dict[str, Any]:
    """Returns what was found, under ``bias`` by probe and language and under ``harness`` by task."""
    from llmyard.runtime.datasets import map_units

    rows = [{"what": what} for what in ("bias", "harness") if getattr(config, what) is not None]
    if not rows:
        return {}
    work = Prober(making.parents["checkpoint"], config.bias, config.harness)
    return {row["what"]: row["found"] for row in map_units(rows, work)}


def content(harness: Harness | None) -> list[Any]:
    """Returns the names and checksums of the harness's task files, and of the data files that these name."""
    if harness is None:
        return []
    folder = Path(harness.folder)
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}", "name one with task files as `harness.folder`")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    found = [[file.relative_to(folder).as_posix(), sha256_of(file)] for file in files]
    named = {path for file in files if file.suffix in (".yaml", ".yml") for path in data_files(file)}
    return found + [[path, sha256_of(Path(path))] for path in sorted(named) if Path(path).is_file()]


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Returns the figures of what :func:`probed` found, by the names that MLflow and the artifact have."""
    metrics = {f"bias/{name}": float(each["difference"]) for name, each in found.get("bias", {}).items()}
    for task, each in found.get("harness", {}).items():
        metrics |= {f"harness/{task}/{name}": float(value) for name, value in each["metrics"].items()}
    return metrics


class Prober:
    """Asks a checkpoint."""

    def __init__(self, checkpoint: Artifact, bias: BiasProbes | None, harness: Harness | None) -> None:
        self.checkpoint, self.bias, self.harness = checkpoint, bias, harness

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from llmyard.generation.model import engine_of

        engine = engine_of(self.checkpoint, threads=1)
        try:
            found = self._bias(engine) if row["what"] == "bias" else self._harness(engine)
        finally:
            engine.close()
        return {"what": row["what"], "found": found}

    def _bias(self, engine: Any) -> dict[str, Any]:
        assert self.bias is not None
        found = {}
        for probe in self.bias.names():
            for language in self.bias.languages:
                pairs = pairs_of(probe, language)
                first = self._scores(engine, [pair.first for pair in pairs])
                second = self._scores(engine, [pair.second for pair in pairs])
                found[f"{probe}_{language}"] = {"language": language, **asdict(measured(pairs, first, second))}
        return found

    def _scores(self, engine: Any, texts: Sequence[str]) -> list[float]:
        """Returns how likely texts are, in nats; of a model that labels the probability of the label."""
        from llmyard.tasks.task import Marked

        assert self.bias is not None
        if engine.model.config.is_encoder_decoder:
            raise RequestError(
                f"{self.checkpoint.reference} reads one text and writes another: it finds no text likely by itself",
                "probe a model that goes on writing (gpt2, llama), or one that labels",
            )
        if engine.capabilities().generates:
            ids = engine.tokenizer.encode_batch(texts)
            scores = engine.score_batch([[engine.tokenizer.end_id]] * len(ids), ids)
            return [each.total for each in scores]
        label = self.bias.label
        shares = [each.shares for each in engine.classify_batch([Marked(text) for text in texts])]
        if label not in shares[0]:
            known = ", ".join(shares[0])
            raise RequestError(
                f"{self.checkpoint.reference} has no label {label!r}", f"name one as `bias.label`: {known}"
            )
        return [each[label] for each in shares]

    def _harness(self, engine: Any) -> dict[str, Any]:
        from llmyard.evaluation.harness import harness_scores

        assert self.harness is not None
        asked = self.harness
        found = harness_scores(engine, Path(asked.folder), asked.tasks, asked.shots, asked.limit)
        return {name: asdict(each) for name, each in found.items()}
