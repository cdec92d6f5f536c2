"""Build the container images with docker, podman or buildah.

    python -m tools.images [NAME...] [--base IMAGE | --make-base] [--export [DIR]]
    python -m tools.images --sizes

docs/images.md describes the images.
"""

from tools.images.base import make_base
from tools.images.build import build
from tools.images.catalog import IMAGES, reference
from tools.images.errors import ImagesError

__all__ = ["IMAGES", "ImagesError", "build", "make_base", "reference"]
