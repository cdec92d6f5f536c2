"""What goes wrong with images."""

from __future__ import annotations


class ImagesError(Exception):
    """What happened, and what to do."""
