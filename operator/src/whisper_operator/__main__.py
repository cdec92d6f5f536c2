"""Run the operator: python -m whisper_operator."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from whisper_operator import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer --version; anything else ends with a usage error, for there is no operator to run yet."""
    parser = argparse.ArgumentParser(prog="python -m whisper_operator", description="The operator of WhisperModels.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args(arguments)
    parser.error("the operator is not part of this version yet; run the transcription server: whisper-inference")


if __name__ == "__main__":
    main()
