"""A Kubernetes node in a container, created by kind; config.yaml sets its version."""
