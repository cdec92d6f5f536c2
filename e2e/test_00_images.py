"""Prerequisites: the documented sizes of the images are accurate."""

from __future__ import annotations

import os
import re

import pytest

from tools.images import ImagesError
from tools.images.build import archives_folder
from tools.images.catalog import ROOT
from tools.images.sizes import archives_in, sizes_over_base


def test_documented_sizes_match_the_archives() -> None:
    try:
        sizes = sizes_over_base(archives_in(archives_folder(os.environ)))
    except ImagesError as reason:
        pytest.skip(str(reason))
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| `[^`]+` \| ([\d.]+) ([MG])B \|", page, flags=re.MULTILINE)
    documented = {name: float(number) * {"M": 1e6, "G": 1e9}[unit] for name, number, unit in rows}
    assert {name: documented[name] for name in sizes} == pytest.approx(sizes, rel=0.05)
    assert sizes["operator"] <= 200e6
