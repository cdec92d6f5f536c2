"""One file per revision. A released one never changes, so none imports today's tables."""
