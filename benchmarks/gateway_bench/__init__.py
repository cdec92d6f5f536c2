"""The gateway's benchmarks: what it adds to a pod, how fast it wakes one, and what it holds in memory."""
