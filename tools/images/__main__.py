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
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(IMAGES)} (default: all)")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", metavar="IMAGE", help="base image to build on (default: the one in the Dockerfiles)")
    base.add_argument(
        "--make-base",
        action="store_true",
        help="create a Debian base image and build on it (requires root, but no registry)",
    )
    parser.add_argument("--sizes", action="store_true", help="print the sizes of exported images instead of building")
    parser.add_argument(
        "--export",
        metavar="DIR",
        type=Path,
        nargs="?",
        const=archives_folder(os.environ),
        help="also export each image to an archive in DIR, and print its path (default DIR: %(const)s)",
    )
    return parser


def _print_sizes(folder: Path) -> None:
    for name, size in sizes_over_base(archives_in(folder)).items():
        print(f"{name:16} {size / 1e6:7.0f} MB on top of its base")


def _build_only(names: list[str], *, base: str | None) -> None:
    builder = find_builder()
    for name in names:
        build_image(name, builder, base=base)
        print(IMAGES[name].reference)


if __name__ == "__main__":
    sys.exit(main())
