"""What the operator promises in figures, measured against a real API server: `make bench-operator`."""
