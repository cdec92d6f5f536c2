"""WhisperModels in a Kubernetes cluster: what the operator reads and calls, and what a gateway will."""
