"""What a transcription is asked for and comes to, and how it is written."""
