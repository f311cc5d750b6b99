"""llmyard: raw text in, an authenticated endpoint out."""

__version__ = "0.1.0"
