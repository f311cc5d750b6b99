"""The span tagger against a naive loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmyard.models.config import Bert
from llmyard.models.families import SpanHeads, build_labeller, load, save
from llmyard.models.span_tagger import SpanTagger

TYPES, RELATIONS = ("person", "place"), ("lives_in", "knows", "works_at")


def made(**shape: float) -> SpanTagger:
    torch.manual_seed(0)
    config = Bert(**{"layers": 2, "hidden_size": 24, "heads": 2, "feed_forward_size": 32, **shape})  # type: ignore[arg-type]
    model = build_labeller(config, SpanHeads(TYPES, RELATIONS), vocab_size=50, pad_id=0, max_tokens=20)
    assert isinstance(model, SpanTagger)
    return model.eval()


@torch.no_grad()
def test_relation_scores_are_the_bilinear_form_of_two_starts() -> None:
    model = made()
    tokens = torch.randint(2, 50, (3, 9))
    starts = torch.tensor([[0, 4, 7], [2, 2, 0], [8, 1, 3]])
    hidden = model.encode(tokens)
    scores = model.relate(hidden, starts)
    assert scores.shape == (3, len(RELATIONS), 3, 3)
    size = model.config.relation_size
    for b in range(3):
        for r in range(len(RELATIONS)):
            part = slice(r * size, (r + 1) * size)
            for i in range(3):
                for j in range(3):
                    subject = model.subjects(hidden[b, starts[b, i]])[part]
                    object_ = model.objects(hidden[b, starts[b, j]])[part]
                    wanted = float(subject @ object_) / size**0.5 + float(model.relation_bias[r])
                    assert float(scores[b, r, i, j]) == pytest.approx(wanted, abs=1e-5)


@torch.no_grad()
def test_padding_changes_no_tag_and_no_relation() -> None:
    model = made()
    tokens, starts = torch.randint(2, 50, (2, 7)), torch.tensor([[0, 3], [1, 6]])
    tags, scores = model(tokens, starts)
    more_tags, more_scores = model(torch.cat([tokens, torch.zeros(2, 5, dtype=torch.long)], 1), starts)
    torch.testing.assert_close(more_tags[:, :7], tags, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(more_scores, scores, rtol=1e-4, atol=1e-5)
    assert tags.shape == (2, 7, 1 + 2 * len(TYPES))


@torch.no_grad()
def test_tags_see_both_sides() -> None:
    model = made()
    tokens, starts = torch.randint(3, 50, (1, 6)), torch.zeros(1, 1, dtype=torch.long)
    first, last = tokens.clone(), tokens.clone()
    first[0, 0], last[0, 5] = 2, 2
    for changed, place in ((first, 5), (last, 0)):
        assert not torch.equal(model(tokens, starts)[0][0, place], model(changed, starts)[0][0, place])


def test_training_begins_at_random_positions_and_answers_at_the_first() -> None:
    model = made()
    tokens, starts = torch.randint(2, 50, (1, 6)), torch.zeros(1, 1, dtype=torch.long)
    assert torch.equal(model(tokens, starts)[0], model(tokens, starts)[0])
    model.train()
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        seen.add(round(float(model(tokens, starts)[0].detach().sum()), 4))
    assert len(seen) > 1
    full = torch.randint(2, 50, (1, 20))
    model(full, starts)  # a text of the longest length leaves no room to move


@pytest.mark.filterwarnings("error")
def test_a_tagger_without_relations_is_made_and_loaded_without_a_warning(tmp_path: Path) -> None:
    shape = Bert(layers=1, hidden_size=24, heads=2, feed_forward_size=32)
    save(build_labeller(shape, SpanHeads(("answer",)), vocab_size=50, pad_id=0, max_tokens=20), tmp_path)
    assert load(tmp_path).config.relations == []


@torch.no_grad()
def test_a_saved_tagger_gives_the_same_answers_and_keeps_its_labels(tmp_path: Path) -> None:
    model = made(dropout=0.2)
    save(model, tmp_path)
    again = load(tmp_path)
    tokens, starts = torch.randint(2, 50, (2, 8)), torch.tensor([[0, 5], [1, 2]])
    for one, two in zip(model(tokens, starts), again(tokens, starts), strict=True):
        assert torch.equal(one, two)
    assert (again.config.entity_types, again.config.relations) == (list(TYPES), list(RELATIONS))
