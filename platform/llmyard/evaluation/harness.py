"""Tasks of the lm-evaluation-harness asked of our engine (the extra ``harness``): its prompts, metrics and errors.

Only task files of a folder are known, so nothing is fetched unless such a file names a data set of a hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.generation.torch_engine import TorchEngine
from llmyard.tasks.task import Decoding

DEFAULT_NEW_TOKENS = 256
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_INTERVAL = 1.959964  # standard errors on both sides of a mean: 95 % of a normal distribution


@dataclass(frozen=True, slots=True)
class HarnessScores:
    """What a task's examples gave.

    Attributes:
        metrics: By name, as ``acc`` or ``exact_match``; one with a filter is named ``metric,filter``.
        intervals: 95 % (low, high) of those whose standard error the harness knows.
        higher_is_better: By name.
        examples: How many were asked.
        version: Of the task file.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    higher_is_better: dict[str, bool]
    examples: int
    version: str


def harness_scores(
    engine: TorchEngine, folder: Path, tasks: Sequence[str], shots: int | None = None, limit: int | None = None
) -> dict[str, HarnessScores]:
    """Returns what a model reaches at tasks, by their names.

    Args:
        engine: With a model that writes.
        folder: Of the task files (YAML); code that they name (``!function``) is run.
        tasks: Their names; of a group all that are in it.
        shots: Solved examples in every prompt; None takes what the task files say.
        limit: Examples of each task at most.

    Raises:
        RequestError: lm-eval is not installed, the folder has no such task, or one that the harness cannot ask.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise RequestError("lm-eval is not installed", 'pip install "llmyard[harness]"') from None
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        known = ", ".join(sorted(manager.all_tasks)) or "none at all"
        raise RequestError(f"{folder} has no task {unknown[0]!r}", f"it has {known}")
    try:
        found = simple_evaluate(
            model=_asked(engine), tasks=list(tasks), task_manager=manager, num_fewshot=shots, limit=limit,
            log_samples=False, bootstrap_iters=1000,
        )  # fmt: skip
    except LlmyardError:
        raise
    except Exception as error:  # whatever a task file leads the harness to
        said = f"the harness fails at {', '.join(tasks)} in {folder}: {type(error).__name__}: {error}"
        raise RequestError(said, "mend the task files, or the data that they name") from error
    return {name: _scores(found, name) for name in found["n-samples"]}


def _scores(found: dict[str, Any], name: str) -> HarnessScores:
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for key, value in found["results"][name].items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        shown = metric if filtered == "none" else key
        values[shown] = float(value)
        error = found["results"][name].get(f"{metric}_stderr,{filtered}")
        if isinstance(error, int | float):
            intervals[shown] = (value - _INTERVAL * error, value + _INTERVAL * error)
    better = {key: bool(value) for key, value in found["higher_is_better"].get(name, {}).items()}
    version = str(found["versions"].get(name, ""))
    return HarnessScores(values, intervals, better, int(found["n-samples"][name]["effective"]), version)


def _asked(engine: TorchEngine) -> Any:
    """Returns the model as the harness asks it; the class is made here, where its base is known to be installed."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM

    tokenizer, able = engine.tokenizer, engine.capabilities()
    positions = able.max_prompt_tokens if able.max_total_tokens is None else able.max_total_tokens - 1
    reads_apart = engine.model.config.is_encoder_decoder

    class Asked(TemplateLM):  # type: ignore[misc]
        backend = "seq2seq" if reads_apart else "causal"
        eot_token_id = tokenizer.end_id
        tokenizer_name = able.model

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return tokenizer.encode(string)

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            prompt, answer = super()._encode_pair(context, continuation)
            # Where no space is between them, as in Chinese, one token may join the two: part of the answer would be
            # taken for read already.
            is_cut = reads_apart or tokenizer.decode(answer) in (
                continuation,
                context[len(context.rstrip()) :] + continuation,
            )
            return (prompt, answer) if is_cut else (tokenizer.encode(context), tokenizer.encode(continuation))

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            # Of an answer that is longer than the positions the end is scored, as the harness has it.
            answers = [answer[-positions:] for *_, answer in requests]
            scores = engine.score_batch([prompt for _, prompt, _ in requests], answers)
            return [(each.total, each.is_likeliest) for each in scores]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            totals = []
            for (text,) in (request.args for request in requests):
                windows = list(self._windows(tokenizer.encode(text)))
                scores = engine.score_batch([prompt for prompt, _ in windows], [answer for _, answer in windows])
                totals.append(sum(each.total for each in scores))
            return totals

        def _windows(self, ids: list[int]) -> Iterator[tuple[list[int], list[int]]]:
            found = utils.get_rolling_token_windows(ids, self.prefix_token_id, positions, 1)
            return map(utils.make_disjoint_window, found)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            said: list[str] = [""] * len(requests)
            for settings, places in _alike([request.args[1] for request in requests]):
                room = min(settings.max_new_tokens, positions - 1)
                prompts = [tokenizer.encode(requests[at].args[0])[room - positions :] for at in places]
                answers = engine.generate_batch([prompt or [tokenizer.end_id] for prompt in prompts], settings)
                for at, answer in zip(places, answers, strict=True):
                    said[at] = _until(answer, requests[at].args[1].get("until") or ())
            return said

    return Asked()


def _alike(settings: Sequence[dict[str, Any]]) -> list[tuple[Decoding, list[int]]]:
    """Returns how answers are written, each with the places of the requests that ask for it."""
    groups: dict[Decoding, list[int]] = {}
    for at, each in enumerate(settings):
        named = (each[name] for name in _LENGTHS if each.get(name) is not None)
        tokens = int(next(named, DEFAULT_NEW_TOKENS))
        temperature = float(each.get("temperature", 0.0)) if each.get("do_sample") else 0.0
        decoding = Decoding(max_new_tokens=tokens, temperature=temperature, top_p=float(each.get("top_p", 1.0)))
        groups.setdefault(decoding, []).append(at)
    return list(groups.items())


def _until(answer: str, stops: str | Sequence[str]) -> str:
    """Returns an answer up to the first of some texts."""
    for stop in [stops] if isinstance(stops, str) else stops:
        if stop:
            answer = answer.partition(stop)[0]
    return answer
