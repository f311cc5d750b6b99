"""``python -m llmyard``: the command line in a given interpreter, as a cluster starts it."""

from __future__ import annotations

from llmyard.cli.main import script
from llmyard.core.submission import load_environment

if __name__ == "__main__":
    load_environment()
    script()
