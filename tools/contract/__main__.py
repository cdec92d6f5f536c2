"""Generate the contract files: python -m tools.contract."""

from __future__ import annotations

import sys

from tools.contract import FOLDER
from tools.contract.sections import SECTIONS, file_of, lines_of


def main() -> int:
    """Write every file; return the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for section in SECTIONS:
        file_of(section).write_text("".join(f"{line}\n" for line in lines_of(section)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
