"""Comparisons that `stage=benchmark` makes, one module each."""
