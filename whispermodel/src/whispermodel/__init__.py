"""What a WhisperModel means. Pure: no I/O, no clock of its own; the standard library and little else."""
