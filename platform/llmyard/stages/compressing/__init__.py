"""What ``compress`` measures of its results, and what it makes of the figures."""
