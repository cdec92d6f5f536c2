"""Reading audio files: their duration, and their samples at 16 kHz."""
