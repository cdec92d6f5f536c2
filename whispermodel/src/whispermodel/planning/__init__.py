"""What a WhisperModel should be at an instant, why, and what to do about it."""
