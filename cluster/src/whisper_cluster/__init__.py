"""WhisperModels in a Kubernetes cluster: the API server, its objects, and the servers in the pods."""
