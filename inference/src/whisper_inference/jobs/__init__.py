"""Durable jobs: stored before they are answered, leased to an executor, finished exactly once."""
