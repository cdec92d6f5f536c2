"""What the server promises in figures, measured: `python -m benchmarks`, or `make bench`."""
