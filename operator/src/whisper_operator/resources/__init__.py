"""The objects that the operator creates for a WhisperModel: one file per object, each a pure function of the model."""
