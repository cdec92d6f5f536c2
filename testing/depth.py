"""How often tests repeat what fails rarely: a few times in CI, the full number in the nightly run."""

from __future__ import annotations

import os

NIGHTLY = os.environ.get("TEST_DEPTH") == "nightly"
"""Set by `make test-nightly`."""


def depth(*, ci: int, nightly: int) -> int:
    """Return how often to repeat. Both numbers must be able to fail; what fails rarely may need the nightly one."""
    return nightly if NIGHTLY else ci
