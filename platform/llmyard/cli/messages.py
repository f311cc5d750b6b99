"""What the command line says, in the user's language."""

from __future__ import annotations

from pathlib import Path

from llmyard.core.language import Messages

say = Messages(Path(__file__).with_name("messages.yaml"))
