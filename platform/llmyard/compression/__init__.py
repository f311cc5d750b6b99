"""Trained models made smaller: weights of 8 and 4 bits, and whole units, heads and layers taken out."""
