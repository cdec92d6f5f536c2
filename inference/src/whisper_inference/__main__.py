"""Run the command line as `python -m whisper_inference`."""

from whisper_inference.main import app

app()
