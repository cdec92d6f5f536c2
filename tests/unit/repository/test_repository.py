"""Rules of this repository that no linter checks."""

from __future__ import annotations

import ast
import re
import shutil
import statistics
import subprocess

import pytest

from testing.paths import ROOT
from tools import settings_page

SOURCES = sorted(
    path
    for package in ("whispermodel", "cluster", "inference", "operator")
    for path in ROOT.glob(f"{package}/src/**/*.py")
)
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of(function: FUNCTION) -> int:
    """Count the lines of a function without its docstring."""
    assert function.end_lineno is not None
    total = function.end_lineno - function.lineno + 1
    match function.body[0]:
        case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
            return total - (last - first + 1)
        case _:
            return total


def functions() -> dict[str, int]:
    """Return the lengths of all functions of the product, by location."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": lines_of(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, FUNCTION)
    }


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 10


def test_the_operator_folder_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_tests_live_under_the_operator_folder() -> None:
    assert not [path for path in (ROOT / "operator").rglob("*.py") if path.name.startswith(("test_", "conftest"))]


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_lock_file_with_its_host_names_is_not_committed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert "uv.lock" not in tracked


def test_the_pins_contain_no_hosts() -> None:
    pins = (ROOT / "pins" / "requirements.txt").read_text(encoding="utf-8")
    assert not re.findall(
        r"^.*(?:://|--index|--extra-index|--find-links|--trusted-host|^-[if]\b).*$", pins, flags=re.MULTILINE
    )


@pytest.mark.parametrize("file", ["pins/requirements.txt", "pins/uv.txt"])
def test_every_pin_is_exact_and_has_a_hash(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    pins = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []


def test_functions_are_short() -> None:
    lengths = sorted(functions().values())
    assert statistics.median(lengths) <= 10
    assert statistics.quantiles(lengths, n=10)[-1] <= 35


def test_no_function_is_longer_than_60_lines() -> None:
    assert {place: lines for place, lines in functions().items() if lines > 60} == {}


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


def test_every_module_has_a_docstring() -> None:
    modules = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert [str(path.relative_to(ROOT)) for path, module in modules.items() if not ast.get_docstring(module)] == []


def test_no_module_has_a_meaningless_name() -> None:
    empty_names = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [str(path.relative_to(ROOT)) for path in SOURCES if empty_names & {path.stem, path.parent.name}] == []


def test_the_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page.page(), "run 'make docs'"


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
    named = {target for text in texts for target in re.findall(r"`make ([a-z0-9-]+)", text.read_text(encoding="utf-8"))}
    assert named <= targets
