"""Applies a WhisperModel from a file on one machine, with the planner of the cluster."""
