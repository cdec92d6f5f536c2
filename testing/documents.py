"""What the documents contain: the commands of their consoles, and their YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from testing.paths import ROOT

DOCS = ROOT / "docs"


def commands(page: Path) -> list[str]:
    """Return the commands of a page's consoles: what follows a prompt, with the lines that a backslash continues."""
    consoles = re.findall(r"^```console\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [one for console in consoles for one in re.findall(r"^\$ ((?:.*\\\n)*.*)", console, flags=re.MULTILINE)]
    return [re.sub(r" {2,}#.*", "", command) for command in found]


def objects(page: Path) -> list[Any]:
    """Return the content of a page's YAML blocks."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]
