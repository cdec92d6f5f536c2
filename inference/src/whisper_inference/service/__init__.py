"""The running server: its parts, how they are assembled, and how they end."""
