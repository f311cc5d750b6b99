"""The realiser of each language, and how freely what a model must produce is worded."""

from __future__ import annotations

from llmyard.sources.smallworld.chinese import Chinese
from llmyard.sources.smallworld.english import English
from llmyard.sources.smallworld.meaning import Language
from llmyard.sources.smallworld.realiser import Realiser

REALISERS: dict[Language, type[Realiser]] = {"en": English, "zh": Chinese}
# What a model must produce is worded in the usual way more often than what it reads: several right answers lower
# every metric
# by the same unknown amount, while varied input costs nothing.
TARGET_VARIETY = 0.08
SOURCE_VARIETY = 0.7
