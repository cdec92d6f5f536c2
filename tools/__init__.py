"""Development tools for this repository. None of them is released."""
