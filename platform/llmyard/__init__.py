"""llmyard: raw text in, an authenticated endpoint out.

What a job file says can be said in Python too::

    from llmyard import Prepare, run
    run(Prepare(output="corpus", sources=[{"kind": "smallworld"}]))
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when first asked for: `import llmyard` alone costs nothing.
_EXPORTS = {
    "Evaluate": "llmyard.stages.config",
    "Index": "llmyard.stages.config",
    "Finetune": "llmyard.stages.config",
    "Pipeline": "llmyard.stages.config",
    "Prepare": "llmyard.stages.config",
    "Pretrain": "llmyard.stages.config",
    "LlmyardError": "llmyard.core.errors",
    "run": "llmyard.stages.run",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'llmyard' has no attribute {name!r}")
