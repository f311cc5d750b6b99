"""Token ids to text piece by piece, so that a character of several tokens is shown when it is whole."""

from __future__ import annotations

from llmyard.tokens.tokenizer import Tokenizer

UNFINISHED = "\ufffd"  # what the bytes of a character decode to while some are missing


class TextStream:
    """Decodes an answer as it is written; what it returns adds up to the decoding of all its ids.

    Only the ids since the last whole character are decoded again at each token, so a long answer costs time in
    proportion to its length. The piece before them goes along, because some tokenizers write a space by what precedes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        self._pending: list[int] = []
        self._shown = 0  # characters of the pending text that were returned

    def add(self, token: int) -> str:
        """Returns the whole characters that a token completes."""
        self._pending.append(token)
        text = self._text()
        whole = text.rstrip(UNFINISHED)
        new, self._shown = whole[self._shown :], max(self._shown, len(whole))
        if whole == text and text:
            self._before, self._pending, self._shown = self._pending, [], 0
        return new

    def end(self) -> str:
        """Returns what is left: "", or U+FFFD for a character that the end of the answer cut."""
        text, shown = self._text(), self._shown
        self._before, self._pending, self._shown = self._pending, [], 0
        return text[shown:]

    def _text(self) -> str:
        if not self._pending:
            return ""
        before = self._tokenizer.decode(self._before) if self._before else ""
        return self._tokenizer.decode(self._before + self._pending)[len(before) :]
