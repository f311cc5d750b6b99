"""The documents of the small world: planted damage is there and labelled, everything else is clean."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.sources.smallworld import Document, SmallWorld
from llmyard.sources.smallworld.damage import edited, similarity
from llmyard.sources.smallworld.draws import Draws
from llmyard.sources.smallworld.identifiers import IDENTIFIERS, id_card_check, luhn_check
from llmyard.sources.smallworld.lexicon import lexicon

WORLD = SmallWorld("dev", seed=7)
DOCUMENTS = [WORLD.document(i) for i in range(WORLD.documents)]
BY_ID = {document.id: document for document in DOCUMENTS}


def test_ids_are_unique_and_share_of_damage_is_as_planned() -> None:
    assert len(BY_ID) == WORLD.documents == 2000
    damaged = Counter(document.damage for document in DOCUMENTS)
    assert 0.15 <= 1 - damaged[""] / 2000 <= 0.20
    planned = {group["damage"] for group in lexicon().data["plan"]} - {"look_alike"}
    assert set(damaged) == planned | {""}


def test_languages_and_source_kinds_are_mixed() -> None:
    languages = Counter(document.language for document in DOCUMENTS)
    assert 0.45 < languages["zh"] / 2000 < 0.55
    assert {document.source_kind for document in DOCUMENTS} == {"plain", "web", "forum"}
    for document in DOCUMENTS:
        assert ("<html" in document.text) == (document.source_kind == "web")


def test_exact_duplicates_are_exact_and_nothing_else_is() -> None:
    texts: dict[str, list[Document]] = defaultdict(list)
    for document in DOCUMENTS:
        texts[document.text].append(document)
    for same in texts.values():
        if len(same) > 1:
            assert len(same) == 3
            assert len({document.group for document in same}) == 1
            assert sorted(document.damage for document in same) == ["", "exact_duplicate", "exact_duplicate"]


def test_near_duplicates_are_as_similar_as_they_say() -> None:
    bands = Counter()
    for document in DOCUMENTS:
        if document.damage == "near_duplicate" and document.source_kind == "plain":
            original = BY_ID[document.labels["copy_of"]]
            measured = similarity(original.text, document.text, document.language)
            assert abs(measured - document.labels["similarity"]) < 1e-3
            bands[round(measured, 1)] += 1
    assert len(bands) >= 3


def test_chains_hold_link_by_link_but_not_end_to_end() -> None:
    chains: dict[str, dict[str, Document]] = defaultdict(dict)
    for document in DOCUMENTS:
        if document.group and document.source_kind == "plain":
            chains[document.group][document.id] = document
    seen = 0
    for members in chains.values():
        links = {d.labels["copy_of"]: d for d in members.values() if d.damage == "chained_duplicate"}
        if len(links) == 2:
            first = members[next(name for name, document in members.items() if not document.damage)]
            second = links[first.id]
            third = links[second.id]
            ends = similarity(first.text, third.text, first.language)
            assert ends < min(second.labels["similarity"], third.labels["similarity"])
            assert ends < 0.7
            seen += 1
    assert seen >= 3


def test_look_alikes_are_clean_and_differ() -> None:
    pairs = [document for document in DOCUMENTS if "look_alike_of" in document.labels]
    assert len(pairs) == 20
    for document in pairs:
        other = BY_ID[document.labels["look_alike_of"]]
        assert document.damage == other.damage == ""
        assert similarity(document.text, other.text, document.language) < 0.7 or document.source_kind == "web"


def test_personal_data_stand_where_labelled_and_validity_is_true() -> None:
    kinds = Counter()
    for document in DOCUMENTS:
        assert ("pii" in document.labels) == (document.damage == "pii")
        for label in document.labels.get("pii", []):
            value = document.text[label["start"] : label["end"]]
            kinds[label["type"], label["valid"]] += 1
            if label["type"] == "id_card":
                assert (id_card_check(value[:17]) == value[17]) == label["valid"]
            if label["type"] == "bank_card":
                assert (luhn_check(value[:-1]) == value[-1]) == label["valid"]
            if label["type"] == "ip":
                assert all(int(part) < 256 for part in value.split(".")) == label["valid"]
            if label["type"] == "mail":
                assert bool(re.fullmatch(r"\w+@example\.(com|org|net)", value)) == label["valid"]
    assert {kind for kind, _ in kinds} == set(IDENTIFIERS)


def test_checksums_agree_with_published_examples() -> None:
    assert id_card_check("11010519491231002") == "X"  # the example of GB 11643-1999
    assert luhn_check("7992739871") == "3"  # the example of ISO/IEC 7812-1 in common use


def test_slurs_are_placeholders_where_labelled() -> None:
    words = [word for group in lexicon().data["placeholder_slurs"].values() for word in group]
    for document in DOCUMENTS:
        assert ("slurs" in document.labels) == (document.damage == "slur")
        for label in document.labels.get("slurs", []):
            assert document.text[label["start"] : label["end"]] in words


def test_wrong_language_is_really_the_other_one() -> None:
    for document in DOCUMENTS:
        chinese = len(re.findall(r"[\u4e00-\u9fff]", document.labels.get("main_text", document.text)))
        if document.damage == "wrong_language":
            assert document.labels["true_language"] != document.language
            assert (chinese > 20) == (document.labels["true_language"] == "zh")
        elif document.damage == "":
            assert (chinese > 20) == (document.language == "zh")


def test_web_pages_hold_their_main_text() -> None:
    for document in DOCUMENTS[:300]:
        if document.source_kind == "web":
            for line in document.labels["main_text"].split("\n"):
                assert line in document.text
            assert document.labels["title"] in document.text


def test_any_size_works_and_members_of_a_group_share_it() -> None:
    for size in (1, 7, 99, 100, 101, 250):
        world = SmallWorld("dev", seed=3, documents=size)
        documents = [world.document(i) for i in range(size)]
        groups = Counter(document.group for document in documents if document.group)
        assert all(count in (2, 3) for count in groups.values())
        assert (size >= 100) == bool(groups)
    assert SmallWorld("large").document(999_999).id == "doc-999999"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**64), st.sampled_from([0.9, 0.8, 0.6]), st.sampled_from(["en", "zh"]))
def test_edits_stop_just_below_the_wanted_similarity(seed: int, wanted: float, language: str) -> None:
    clean = (d.text for d in DOCUMENTS if d.source_kind == "plain" and not d.damage and d.language == language)
    text = next(text for text in clean if len(text) > 100)
    result = edited(text, language, wanted, Draws(seed))  # type: ignore[arg-type]
    assert wanted - 0.2 < similarity(text, result, language) <= wanted  # type: ignore[arg-type]
