"""Runs the WhisperModels of a folder on one machine, each in a server process, with the planner of the cluster."""
