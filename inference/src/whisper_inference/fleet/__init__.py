"""Models whose pods run elsewhere: which there are, how demand wakes them, and how jobs reach their pods."""
