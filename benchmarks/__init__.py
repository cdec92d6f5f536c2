"""Benchmarks of the server: `python -m benchmarks`, or `make bench`."""
