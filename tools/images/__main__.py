"""The command line: python -m tools.images."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tools.images.base import make_base
from tools.images.build import archives_folder, build, build_image
from tools.images.builders import find_builder
from tools.images.catalog import IMAGES
from tools.images.errors import ImagesError
from tools.images.sizes import archives_in, sizes_over_base


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    given = _parser().parse_args(arguments)
    names: list[str] = given.names or list(IMAGES)
    try:
        if given.sizes:
            _print_sizes(archives_folder(os.environ))
            return 0
        base: str | None = make_base() if given.make_base else given.base
        if given.export:
            for archive in build(names, given.export, base=base).values():
                print(archive)
        else:
            _build_only(names, base=base)
    except ImagesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.images", description="Build the container images.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)} (default: all)")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", metavar="IMAGE", help="to build on (default: the one that the Dockerfiles name)")
    base.add_argument("--make-base", action="store_true", help="build on Debian, made here: needs root, no registry")
    parser.add_argument("--sizes", action="store_true", help="build nothing; print how large those exported are")
    parser.add_argument(
        "--export",
        metavar="DIR",
        type=Path,
        nargs="?",
        const=archives_folder(os.environ),
        help="write each into an archive too (DIR: %(const)s), and print its path",
    )
    return parser


def _print_sizes(folder: Path) -> None:
    for name, size in sizes_over_base(archives_in(folder)).items():
        print(f"{name:16} {size / 1e6:7.0f} MB over its base")


def _build_only(names: list[str], *, base: str | None) -> None:
    builder = find_builder()
    for name in names:
        build_image(name, builder, base=base)
        print(IMAGES[name].reference)


if __name__ == "__main__":
    sys.exit(main())
