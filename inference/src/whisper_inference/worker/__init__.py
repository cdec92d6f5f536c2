"""The processes below the API: the zygote, which is forked, and the worker, which holds the model."""
