"""Looking documents up: by id, and by a token's place in a shard; in the store and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.tokens import shard_index
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.lookup import document_at, find_document
from llmyard.tokens.shards import ShardWriter
from llmyard.tokens.tokenizer import FILE, Tokenizer

DOCUMENTS = {
    "train-000000-000-f1": [("新闻/a.txt#0", "马洛找到了一盏绿色的灯。", "新闻"), ("新闻/a.txt#1", "他走了。", "新闻")],
    "train-000001-000-f1": [("books/b.txt#0", "Malo found a green lamp.", "books")],
    "validation-000000-000-f1": [("books/b.txt#9", "One morning, Malo went home.", "books")],
}


@pytest.fixture(params=[True, False], ids=["indexed", "older"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Artifact, Tokenizer]:
    store = ArtifactStore(Storage(str(tmp_path / "store")))
    texts = [text for documents in DOCUMENTS.values() for _, text, _ in documents]
    tokenizer = Tokenizer.train(texts * 3, BpeTokenizer(vocab_size=330))
    with store.begin("tokenizer", "corpus", "t") as draft:
        draft.storage.write(f"{draft.folder}/{FILE}", tokenizer.to_json().encode())
        parent = draft.commit(config={}, parents=[], metrics={})
    with store.begin("shards", "corpus", "s") as draft:
        entries, facts = [], []
        for name, documents in DOCUMENTS.items():
            writer = ShardWriter(draft.storage.local(draft.folder), name, np.dtype("<u2"), 16)
            for document, text, source in documents:
                writer.add([*tokenizer.encode(text), tokenizer.end_id], document=document, source=source)
            entries += writer.close()
            facts.append(writer.facts)
        if request.param:
            entries.append(draft.keep(shard_index.FILE, shard_index.to_parquet(facts)))
        artifact = draft.commit(config={}, parents=[parent.reference], metrics={}, files=entries)
    return artifact, tokenizer


def test_a_document_leads_to_its_shard_and_back(corpus: tuple[Artifact, Tokenizer]) -> None:
    artifact, tokenizer = corpus
    for name, documents in DOCUMENTS.items():
        at = 0
        for document, text, source in documents:
            found = find_document(artifact, document, tokenizer)
            assert (found.document, found.shard, found.start, found.source, found.text) == (
                document, name, at, source, text,
            )  # fmt: skip
            for position in range(at, at + found.length):
                assert document_at(artifact, name, position, tokenizer) == found
            at += found.length
        with pytest.raises(RequestError, match=f"has no token {at}"):
            document_at(artifact, f"{name}.tokens.parquet", at, tokenizer)


def test_what_is_not_there_is_answered_with_what_is(corpus: tuple[Artifact, Tokenizer]) -> None:
    with pytest.raises(RequestError, match=r"no document 'books/b.txt#7'") as caught:
        find_document(corpus[0], "books/b.txt#7", corpus[1])
    assert "'books/b.txt#" in caught.value.remedy
    with pytest.raises(RequestError, match="no shard 'train-000001-000-f2'") as caught:
        document_at(corpus[0], "train-000001-000-f2", 0, corpus[1])
    assert "train-000001-000-f1" in caught.value.remedy


def test_the_command_line_prints_a_document(
    corpus: tuple[Artifact, Tokenizer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.json = False
    store = ["--storage", str(tmp_path / "store")]
    assert main(["artifacts", "show", "shards/corpus", "--document", "新闻/a.txt#0", *store]) == 0
    out = capsys.readouterr().out
    assert "text: 马洛找到了一盏绿色的灯。" in out
    assert "shard: train-000000-000-f1" in out
    place = ["--shard", "train-000001-000-f1", "--position", "2"]
    assert main(["artifacts", "show", "shards/corpus", *place, "--json", *store]) == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (record["document"], record["text"]) == ("books/b.txt#0", "Malo found a green lamp.")
    assert main(["artifacts", "show", "tokenizer/corpus", "--document", "x", *store]) == 2
    assert "holds no shards of documents" in capsys.readouterr().err
