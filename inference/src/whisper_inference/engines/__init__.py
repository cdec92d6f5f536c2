"""The libraries that run Whisper models, behind one interface; only the zygote and the worker import them."""
