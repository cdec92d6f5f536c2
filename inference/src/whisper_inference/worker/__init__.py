"""The processes below the API: the zygote that is forked from, and the worker that holds the model."""
