"""The rounds of ``prepare``, each a pass over units of work on Ray Data."""
