"""The one place that talks to MLflow: runs, metrics, lineage, the model registry.

Plain and synchronous. Training processes never import MLflow: one actor beside the driver owns a gateway for all of
them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmyard.core.storage import Storage
from llmyard.core.tracking import Line, RunSpec, RunSummary, TrackingRejected, metric_key, owner_lives
from llmyard.runtime.comparison import Table, tables
from llmyard.runtime.mlflow_connection import REFUSED_FOR_GOOD, MlflowConnection

BATCH = 1000  # log_batch's own limit
HEARTBEAT_SECONDS = 60.0
LEASE_SECONDS = 300.0  # a run owned by another host is abandoned once its heartbeat is older

_ENDED = ("FINISHED", "FAILED", "KILLED")


class MlflowGateway:
    """Calls to one MLflow store, with llmyard's run identity and exactly-once metrics on top.

    Args:
        uri: `sqlite:///…` or a tracking server's address.
        artifact_root: Where new experiments keep run files; None leaves it to the server.

    Every method raises `TrackingUnavailable` if MLflow cannot answer now and `TrackingRejected` if it refuses for good.
    """

    def __init__(self, uri: str, artifact_root: str | None = None) -> None:
        self.uri = uri
        self._connection = MlflowConnection(uri, artifact_root)
        self._marks: dict[str, dict[str, int]] = {}
        self._doubtful: dict[str, list[Line]] = {}

    def migrate(self) -> None:
        """Brings an SQLite store to this MLflow's schema; call it before any fan-out."""
        self._connection.migrate()

    def start_run(self, spec: RunSpec) -> str:
        """The id of the spec's MLflow run, RUNNING and ours: the existing one of its token, else a new one."""
        with self._connection.calls():
            client = self._connection.client()
            tags = self._owner_tags(spec.owner) | spec.tags
            if found := self._find(spec.token, spec.experiment):
                run_id: str = found.info.run_id
                for key, value in tags.items():  # the owner first: a run with a live owner is nobody's to close
                    client.set_tag(run_id, key, value)
                client.update_run(run_id, status="RUNNING")
                if "llmyard.described" in found.data.tags:
                    return run_id
            else:
                tags |= {
                    "llmyard.token": spec.token,
                    "mlflow.source.name": "llmyard",
                    "mlflow.source.type": "LOCAL",
                    "mlflow.source.git.commit": spec.code_version.partition("+")[2],
                    "llmyard.code_version": spec.code_version,
                }
                if spec.parent_token and (parent := self._find(spec.parent_token, spec.experiment)):
                    tags["mlflow.parentRunId"] = parent.info.run_id
                # One transaction: no moment at which the run exists without token and owner.
                run = client.create_run(
                    self._connection.experiment_id(spec.experiment),
                    start_time=spec.started_ms or None,
                    tags={key: value for key, value in tags.items() if value},
                    run_name=spec.name,
                )
                run_id = run.info.run_id
            self._describe(run_id, spec)
            return run_id

    def find_run(self, token: str, experiment: str) -> str | None:
        """The id of a token's run, or None."""
        with self._connection.calls():
            found = self._find(token, experiment)
            return found.info.run_id if found else None

    def heartbeat(self, run_id: str) -> None:
        """Tells other hosts that the run's owner lives."""
        with self._connection.calls():
            self._connection.client().set_tag(run_id, "llmyard.heartbeat", str(int(time.time())))

    def finish(
        self,
        run_id: str,
        status: str,
        metrics: Mapping[str, float] | None = None,
        artifact: str = "",
        artifact_uri: str = "",
        pages: Sequence[str] = (),
        ended_ms: int | None = None,
    ) -> None:
        """Ends the run as FINISHED, FAILED or KILLED, with its final metrics and the link to what it made.

        Args:
            run_id: The run.
            status: One of the three.
            metrics: Final values. Give them keys of their own: each becomes the key's next step, unless it is the
                last value already.
            artifact: `kind/name@version`.
            artifact_uri: Where that lies.
            pages: Files in it that the run shows too.
            ended_ms: When it ended; default now.
        """
        if status not in _ENDED:
            raise ValueError(f"status {status!r} is none of {_ENDED}")
        with self._connection.calls():
            client = self._connection.client()
            if metrics:
                self._log_final(run_id, metrics)
            for key, value in (("llmyard.artifact", artifact), ("llmyard.artifact_uri", artifact_uri)):
                if value:
                    client.set_tag(run_id, key, value)
            if status == "FINISHED":
                for page in pages:
                    text = Storage(artifact_uri).read(page)
                    if text is not None:
                        client.log_text(run_id, text.decode(), page)
            client.set_terminated(run_id, status, ended_ms)

    def close_abandoned(self) -> list[str]:
        """Ends as KILLED the RUNNING runs whose owner is gone; returns their ids.

        An owner on this host is gone if its process is; one on another host if its heartbeat is older than
        `LEASE_SECONDS`.
        """
        closed: list[str] = []
        with self._connection.calls():
            for run in self._search("attributes.status = 'RUNNING' and tags.`llmyard.owner` LIKE '%'"):
                lives = owner_lives(run.data.tags.get("llmyard.owner", ""))
                if lives is None:
                    beat = run.data.tags.get("llmyard.heartbeat", "0")
                    lives = time.time() - (float(beat) if beat.isdigit() else 0.0) < LEASE_SECONDS
                if not lives:
                    self._connection.client().set_terminated(run.info.run_id, "KILLED")
                    closed.append(run.info.run_id)
        return closed

    def is_owned(self, run_id: str, *, besides: str = "") -> bool:
        """True if a living owner other than `besides` works on the run."""
        with self._connection.calls():
            run = self._connection.client().get_run(run_id)
            owner = run.data.tags.get("llmyard.owner", "")
            if run.info.status != "RUNNING" or not owner or owner == besides:
                return False
            lives = owner_lives(owner)
            beat = run.data.tags.get("llmyard.heartbeat", "0")
            return time.time() - float(beat) < LEASE_SECONDS if lives is None else lives

    def log_batch(self, run_id: str, lines: Sequence[Line]) -> int:
        """Logs the lines, each (key, step) at most once in the run's life; returns how many metrics were new.

        What is at or below the last step that MLflow has for a key is left out: it was sent before a crash. After a
        failure it is unknown whether MLflow took the batch, so exactly that batch goes again first: the same rows,
        which the store ignores if it has them.
        """
        with self._connection.calls():
            if doubtful := self._doubtful.get(run_id):
                self._send(run_id, doubtful)
            marks = self._marks.get(run_id)
            if marks is None:
                marks = self._marks[run_id] = self._last_steps(run_id)
            ahead = dict(marks)
            fresh: list[Line] = []
            for line in lines:
                metrics = {key: value for key, value in line.metrics.items() if line.step > ahead.get(key, _BEFORE_ALL)}
                ahead.update(dict.fromkeys(metrics, line.step))
                if metrics:
                    fresh.append(Line(line.step, line.timestamp_ms, metrics))
            for batch in _batches(fresh):
                self._send(run_id, batch)
            return sum(len(line.metrics) for line in fresh)

    def forget(self, run_id: str) -> None:
        """Drops what is remembered of a run that has ended."""
        with self._connection.calls():
            self._marks.pop(run_id, None)
            self._doubtful.pop(run_id, None)

    def register(
        self,
        model: str,
        artifact: str,
        *,
        source: str,
        run_id: str | None = None,
        aliases: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> str:
        """Makes an artifact a version of a registered model; returns the version, the same one when done twice.

        Args:
            model: The registered model's name; made if missing.
            artifact: `checkpoint/name@version`: what `resolve` will answer.
            source: The artifact's address. The registry holds the link, not the bytes.
            run_id: The MLflow run that made it.
            aliases: Moved to this version, for example `champion`.
            tags: More tags of the version.
            description: Shown in the registry.
        """
        with self._connection.calls():
            client = self._connection.client()
            from mlflow.exceptions import MlflowException

            try:
                client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            all_tags = {"llmyard.artifact": artifact, "llmyard.source": source} | dict(tags or {})
            known = [
                each
                for each in client.search_model_versions(f"name = '{_quoted(model)}'")
                if each.tags.get("llmyard.artifact") == artifact
            ]
            if known:
                version = str(known[0].version)
                for key, value in all_tags.items():
                    client.set_model_version_tag(model, version, key, value)
            else:
                options: dict[str, Any] = {
                    "run_id": run_id,
                    "tags": all_tags,
                    "description": description,
                    "await_creation_for": None,
                }
                try:
                    made = client.create_model_version(model, source, **options)
                except MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    # A tracking server refuses local paths, which mean nothing to it; the tags still hold the real one.
                    made = client.create_model_version(model, f"llmyard://artifacts/{artifact}", **options)
                version = str(made.version)
            for alias in aliases:
                client.set_registered_model_alias(model, alias, version)
            return version

    def resolve(self, model: str, alias: str) -> str:
        """The artifact (`kind/name@version`) behind `models:/model@alias`; a version number does for an alias."""
        with self._connection.calls():
            client = self._connection.client()
            found = (
                client.get_model_version(model, alias)
                if alias.isdigit()
                else client.get_model_version_by_alias(model, alias)
            )
            artifact: str = found.tags.get("llmyard.artifact", "")
            if not artifact:
                raise TrackingRejected(
                    f"models:/{model}@{alias} was not registered by llmyard: it names no artifact",
                    "take it in with `llmyard artifacts import`",
                )
            return artifact

    def runs(self, limit: int = 50) -> list[RunSummary]:
        """The newest llmyard runs of all experiments."""
        with self._connection.calls():
            names = {each.experiment_id: each.name for each in self._connection.client().search_experiments()}
            found = self._search("tags.`llmyard.token` LIKE '%'", limit=limit, order="attributes.start_time DESC")
            return [
                RunSummary(
                    run_id=run.info.run_id,
                    token=run.data.tags.get("llmyard.token", ""),
                    name=run.info.run_name,
                    experiment=names.get(run.info.experiment_id, ""),
                    status=run.info.status,
                    started_ms=run.info.start_time,
                    ended_ms=None if run.info.status == "RUNNING" else run.info.end_time,
                    artifact=run.data.tags.get("llmyard.artifact", ""),
                    metrics=dict(run.data.metrics),
                    job=run.data.tags.get("llmyard.job", ""),
                )
                for run in found
            ]

    def compare(self, run_ids: Sequence[str]) -> tuple[Table, Table]:
        """Two tables `{row: {run_id: value}}`: of the parameters and of the last metrics that any of the runs has.

        Parameters are those of MLflow and the fields of the run's logged config (`model.layers`); metrics of the
        machine are left out.
        """
        with self._connection.calls():
            return tables(self._connection.client(), run_ids)

    def metric_history(self, run_id: str, key: str) -> list[tuple[int, int, float]]:
        """(step, timestamp in ms, value) of all a run's values of a metric."""
        with self._connection.calls():
            found = self._connection.client().get_metric_history(run_id, key)
            return [(each.step, each.timestamp, each.value) for each in found]

    def _find(self, token: str, experiment: str) -> Any:
        found = self._connection.client().search_runs(
            [self._connection.experiment_id(experiment)],
            f"tags.`llmyard.token` = '{_quoted(token)}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return found[0] if found else None

    def _search(self, condition: str, limit: int = 1000, order: str = "attributes.start_time ASC") -> list[Any]:
        experiments = [each.experiment_id for each in self._connection.client().search_experiments()]
        return list(self._connection.client().search_runs(experiments, condition, max_results=limit, order_by=[order]))

    def _owner_tags(self, owner: str) -> dict[str, str]:
        return {"llmyard.owner": owner, "llmyard.heartbeat": str(int(time.time()))}

    def _describe(self, run_id: str, spec: RunSpec) -> None:
        """Config, parameters and lineage; all of it may be repeated, so the next attempt makes a crash good."""
        client = self._connection.client()
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        params = [Param(key, str(value)[:6000]) for key, value in spec.params.items()]
        for at in range(0, len(params), 100):  # MLflow takes no more at once
            client.log_batch(run_id, params=params[at : at + 100])
        inputs = [
            DatasetInput(
                Dataset(
                    name=each.name,
                    digest=(each.digest or each.version)[:36],
                    source_type="llmyard",
                    source=json.dumps({"uri": each.uri, "artifact": f"{each.kind}/{each.name}@{each.version}"}),
                ),
                [InputTag("mlflow.data.context", each.kind), InputTag("llmyard.version", each.version)],
            )
            for each in spec.inputs
        ]
        if inputs:
            client.log_inputs(run_id, inputs)
        if spec.config:
            # An artifact, not parameters: those cannot change when a run is resumed with, say, more workers.
            client.log_text(run_id, json.dumps(spec.config, indent=2, ensure_ascii=False, default=str), "config.json")
        client.set_tag(run_id, "llmyard.described", "1")

    def _log_final(self, run_id: str, metrics: Mapping[str, float]) -> None:
        known = {each.key: each for each in self._connection.client().get_run(run_id).data._metric_objs}
        now = int(time.time() * 1000)
        lines = []
        for key, value in ((metric_key(name), value) for name, value in metrics.items()):
            last = known.get(key)
            if last is None or not (last.value == value or (math.isnan(last.value) and math.isnan(value))):
                lines.append(Line(last.step + 1 if last else 0, now, {key: float(value)}))
        self.log_batch(run_id, lines)

    def _last_steps(self, run_id: str) -> dict[str, int]:
        return {each.key: each.step for each in self._connection.client().get_run(run_id).data._metric_objs}

    def _send(self, run_id: str, lines: list[Line]) -> None:
        from mlflow.entities import Metric

        self._doubtful[run_id] = lines
        metrics = [
            Metric(key, value, line.timestamp_ms, line.step) for line in lines for key, value in line.metrics.items()
        ]
        for start in range(0, len(metrics), BATCH):
            try:
                self._connection.client().log_batch(run_id, metrics=metrics[start : start + BATCH], synchronous=True)
            except Exception as error:
                if getattr(error, "error_code", "") in REFUSED_FOR_GOOD:
                    self.forget(run_id)
                raise
        marks = self._marks.setdefault(run_id, {})
        for line in lines:
            marks.update(dict.fromkeys(line.metrics, line.step))
        del self._doubtful[run_id]


_BEFORE_ALL = -(1 << 63)


def _batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Groups of whole lines with up to 1,000 metrics; a longer line is a group of its own."""
    group: list[Line] = []
    count = 0
    for line in lines:
        if group and count + len(line.metrics) > BATCH:
            yield group
            group, count = [], 0
        group.append(line)
        count += len(line.metrics)
    if group:
        yield group


def _quoted(text: str) -> str:
    """Text fit for a quoted value of a search condition, which knows no escapes."""
    if "'" in text:
        raise TrackingRejected(f"{text!r} holds a quote, which MLflow cannot search for", "choose a name without it")
    return text
