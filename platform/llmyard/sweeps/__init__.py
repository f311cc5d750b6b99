"""Searching for good settings: spaces, searchers, stopping early, and what is known of the trials."""
