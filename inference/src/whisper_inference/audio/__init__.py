"""Recordings: what is in a file, and its sound as samples."""
