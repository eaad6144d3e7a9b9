"""Benchmarks. ``python -m bench.baseline`` prints every row of DESIGN section 15 that exists."""
