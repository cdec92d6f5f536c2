"""The chart, rendered and installed by the real Helm."""
