"""BLEU, chrF, ROUGE, answer EM/F1, triples: pure functions for Chinese and English, without torch."""
