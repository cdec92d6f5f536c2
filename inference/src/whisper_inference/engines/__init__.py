"""The libraries that run Whisper models, behind one shape; they are imported in the zygote and the worker only."""
