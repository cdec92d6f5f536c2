"""Before the stories: the images are as large as their page says."""

from __future__ import annotations

import os
import re

import pytest

from tools.images import ImagesError
from tools.images.build import archives_folder
from tools.images.catalog import ROOT
from tools.images.sizes import archives_in, sizes_over_base


def test_the_page_s_sizes_are_those_of_the_archives_that_are_here() -> None:
    try:
        sizes = sizes_over_base(archives_in(archives_folder(os.environ)))
    except ImagesError as none:
        pytest.skip(str(none))
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| `[^`]+` \| ([\d.]+) ([MG])B \|", page, flags=re.MULTILINE)
    told = {name: float(number) * {"M": 1e6, "G": 1e9}[unit] for name, number, unit in rows}
    assert {name: told[name] for name in sizes} == pytest.approx(sizes, rel=0.05)
    assert sizes["operator"] <= 200e6
