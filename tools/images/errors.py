"""Errors of building images."""

from __future__ import annotations


class ImagesError(Exception):
    """An image operation failed. The message says what happened and what to do."""
