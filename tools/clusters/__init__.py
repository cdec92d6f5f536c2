"""Clusters for the end-to-end tests: `local` requires root but not Docker, `kind` requires Docker but not root."""
