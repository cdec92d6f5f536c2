"""The options of a transcription, its result, and the formats that the result is written in."""
