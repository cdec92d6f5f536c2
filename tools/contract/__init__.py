"""The public contract as text files with one short line per item, so that a release cannot change it by accident.

`python -m tools.contract` generates the files from the code, and a test compares them. Text for people, such as
descriptions and messages, is not part of the contract.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "data" / "contract"
