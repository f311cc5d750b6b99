"""Figures of quality and how sure they are, for Chinese and English: pure functions, without torch."""
