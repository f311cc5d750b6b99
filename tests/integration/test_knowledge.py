"""Knowledge injection: the triples of a graph are sentences in the shards, beside other text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmyard.stages.config import job_adapter
from llmyard.stages.run import run
from llmyard.tasks.graph import Extraction, graph_of
from llmyard.tasks.graph_files import triple_lines
from llmyard.tokens.shards import ShardSet
from llmyard.tokens.tokenizer import Tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray")]

FACTS = (("马洛", "lives_in", "科拉镇"), ("马洛", "职业", "厨师"), ("Malo", "works_at", "Bas\tBank"))


def test_triples_are_read_in_the_mix_of_a_corpus(tmp_path: Path) -> None:
    graph = graph_of([Extraction("d1", (("马洛", "person"),), FACTS), Extraction("d2", (), FACTS[:1])])
    (tmp_path / "graph.triples.tsv").write_text("".join(triple_lines(graph)), encoding="utf-8")
    (tmp_path / "more.tsv").write_text("Zel\tborn_in\tDom Bay\nZel\tborn_in\n", encoding="utf-8")
    templates = {"lives_in": {"zh": "{subject}住在{object}。"}, "works_at": {"en": ["{subject} works at {object}."]}}
    job: dict[str, Any] = {
        "kind": "prepare", "output": "corpus", "tokenizer": {"vocab_size": 500}, "clean": ["normalize"],
        "limits": {"max_bad_share": 0.1}, "documents_per_task": 100, "splits": {"validation": 0.2},
        "sources": [
            {"kind": "smallworld", "documents": 60},
            {"kind": "triples", "name": "facts", "paths": [str(tmp_path / "*.tsv")], "templates": templates,
             "split": "train", "weight": 3.0},
        ],
    }  # fmt: skip
    (result,) = run(job_adapter().validate_python(job), storage=str(tmp_path / "store"))
    shards, tokenizer = result.artifacts
    text = Tokenizer.load(tokenizer.local("tokenizer.json"))
    decoded = [
        text.decode(shard.read(0, shard.tokens).tolist())
        for shard in ShardSet.of(shards, "train").shards
        if shard.source == "facts"
    ]
    assert "".join(sorted(decoded)).replace("\t", " ") in {
        "Malo works at Bas Bank.马洛住在科拉镇。马洛的职业是厨师。The born in of Zel is Dom Bay.",
        "The born in of Zel is Dom Bay.Malo works at Bas Bank.马洛住在科拉镇。马洛的职业是厨师。",
    }
    assert "facts" not in {shard.source for shard in ShardSet.of(shards, "validation").shards}
    assert shards.metrics["documents_bad"] == 1
    (bad,) = shards.details["bad_records"]
    assert (Path(bad["path"]).name, bad["reason"]) == ("more.tsv", "the line has 2 columns, a triple has 3")
    listed = [json.loads(line) for line in shards.local("sources.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {Path(each["path"]).name for each in listed} == {"graph.triples.tsv", "more.tsv"}
    job["sources"][1]["templates"] = {}
    (again,) = run(job_adapter().validate_python(job), storage=str(tmp_path / "store"))
    assert not again.skipped
