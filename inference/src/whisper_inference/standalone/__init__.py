"""Obeying a WhisperModel from a file on one machine: the planner of the cluster, without the cluster."""
