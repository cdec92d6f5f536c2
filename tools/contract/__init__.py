"""The contract with users and other programs, as files of short lines: what a release must not change by accident.

`python -m tools.contract` writes the files from the code, and a test compares the two. Words for people, such as
descriptions and messages, are no part of it.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "data" / "contract"
