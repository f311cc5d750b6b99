"""What `chaos cluster` does with the lab of cluster/lab.py: who works on a node, an endpoint, and who asks it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import yaml
from _commands import title

CLIENTS = 8


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "cluster" / "lab.py"
    spec = importlib.util.spec_from_file_location("lab", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


lab = _load()


def works(cluster: Any, node: Any, role: str) -> bool:
    """Returns whether a process of Ray with a role, such as ``RayTrainWorker``, runs on a node."""
    for pid in cluster.pids(node):
        try:
            if title(psutil.Process(pid)).startswith(f"ray::{role}"):
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def make_bases(storage: Path) -> tuple[str, str, str]:
    """Commits two versions of a small decoder, and a key for those who ask.

    Returns:
        The key, and the two references.
    """
    import torch

    from llmyard.core.artifacts import ArtifactStore
    from llmyard.core.storage import Storage
    from llmyard.models.config import Gpt2
    from llmyard.models.families import build, save
    from llmyard.serving import keys
    from llmyard.tokens.config import BpeTokenizer
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    store = ArtifactStore(Storage(str(storage)))
    tokenizer = Tokenizer.train(["One morning, Malo went to Kora Town."] * 9, BpeTokenizer(vocab_size=300))
    references = []
    for seed in range(2):
        torch.manual_seed(seed)
        ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "end_id": tokenizer.end_id}
        model = build(Gpt2(layers=2, hidden_size=32, heads=2), max_tokens=64, **ids)
        with store.begin("checkpoint", "base", f"seed {seed}") as draft:
            save(model, Path(draft.uri))
            tokenizer.save(Path(draft.uri) / FILE)
            references.append(draft.commit(config={}, parents=(), metrics={}).reference)
    key = keys.new_key()
    keys.keep(store.storage, key)
    return key, references[0], references[1]


def write_deploy_job(path: Path, reference: str) -> None:
    """Writes the job that puts a version behind the endpoint, two replicas of it."""
    job = {"kind": "deploy", "models": [reference], "scale": {"least": 2, "most": 2}}
    path.write_text(yaml.safe_dump(job), encoding="utf-8")


class Asking:
    """Clients that ask an endpoint all the time, beside the cluster, by the head's address."""

    def __init__(self, cluster: Any, key: str) -> None:
        self._cluster, self._key = cluster, key
        self.url = f"http://{cluster.head.address}:{lab.PORTS['serve']}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process that writes it
        words = [sys.executable, str(Path(__file__).with_name("_asking.py")), self.url, key, "base", str(CLIENTS)]
        self._process: subprocess.Popen[bytes] = cluster.run(
            cluster.client, words, stdout=subprocess.PIPE, stderr=self._log
        )

    def answered_by(self) -> str:
        """Returns the version that answers now."""
        words = ["curl", "--silent", "--max-time", "10", "--header", f"Authorization: Bearer {self._key}"]
        found = json.loads(self._cluster.output(self._cluster.client, [*words, f"{self.url}/v1/models/base"]))
        return str(found["lineage"][0]["artifact"])

    def ended(self) -> dict[str, Any]:
        """Ends it; returns how often each status, or error, was seen, and how long the slowest answer took."""
        self._process.terminate()
        out, _ = self._process.communicate()
        self._log.seek(0)
        told = self._log.read().decode(errors="replace")
        if told:
            print(told[-3000:], file=sys.stderr)
        found: dict[str, Any] = json.loads(out)
        return found
