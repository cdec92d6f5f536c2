"""The code keeps the contract of the last release, which is in tests/data/contract."""

from __future__ import annotations

import ast
import difflib

import pytest

from tools.contract import FOLDER
from tools.contract.literals import literals_given
from tools.contract.sections import SECTIONS, file_of, lines_of

HINT = "if the contract is meant to change, run 'python -m tools.contract', and give the reason in CHANGELOG.md"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_code_keeps_the_contract(section: str) -> None:
    kept = file_of(section).read_text(encoding="utf-8").splitlines()
    places = (f"{file_of(section).name}, as released", "the code")
    changes = list(difflib.unified_diff(kept, lines_of(section), *places, n=0, lineterm=""))
    if changes:
        pytest.fail("\n".join([HINT, *changes]), pytrace=False)


def test_every_file_has_a_section() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {file_of(section).name for section in SECTIONS}


SOURCE = """
FULL, _KINDS = "Full", {"a": "First", "b": "Second"}
class Kind(Enum):
    OTHER = "Other"
class Apart(Enum):
    LEFT_OUT = "LeftOut"
class Finding:
    type: str
    reason: str = "Default"
def judged(now, kind):
    Finding("Type", "Positional")
    Finding("Type", reason="Keyword")
    Finding("Type", FULL)
    Finding("Type", _KINDS[kind])
    Finding("Type", Kind.OTHER)
    Finding("Type", Apart.LEFT_OUT)
    Finding("Type", "Yes" if now == "NotReached" else now.reason("NotReached"))
    reason = now.reason or "Local"
    Finding("Type", reason)
def elsewhere():
    reason = "NotReached"
"""


def test_all_strings_that_reach_a_parameter_are_found() -> None:
    found = literals_given("reason", [ast.parse(SOURCE)], apart_from=frozenset({"Apart"}))
    assert found == {"Default", "Positional", "Keyword", "Full", "First", "Second", "Other", "Yes", "Local"}
