"""Comparisons of tascnet with what others do, run from a clone: `python -m benchmarks`."""
