"""The commands that need no cluster: validate and forecast."""
