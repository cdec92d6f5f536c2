"""A transcription server whose idle model costs nothing: the model lives in a process of its own, and only there."""
