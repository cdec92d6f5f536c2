"""A Kubernetes in a container, for people with Docker and kind; config.yaml says which."""
