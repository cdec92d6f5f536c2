"""Checkpoints converted once into a file that is memory-mapped as it stands: safetensors, in the dtype that serves."""

from __future__ import annotations

import json
import logging
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NotRequired, TypedDict

import torch
from torch import Tensor

from whisper_inference.engines.checkpoint import Source
from whisper_inference.engines.download import locked
from whisper_inference.errors import CheckpointDamaged

_log = logging.getLogger(__name__)
_REVISION = "1"
_NAMES = {torch.float32: "F32", torch.float16: "F16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ALIGNMENT_BYTES = 64
_MAX_HEADER_BYTES = 16 * 2**20
_UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What torch.load raises on a file that is cut off or no checkpoint."""


class _Entry(TypedDict):
    """One tensor in a safetensors header (dims: of the entry __metadata__ only)."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]
    dims: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's tensors, mapped or in memory, and its dimensions."""

    dims: dict[str, int]
    tensors: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        """Return the size of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def converted_path(source: Source, dtype: torch.dtype, *, cache_dir: Path) -> Path:
    """Return where the converted form of a checkpoint belongs."""
    return cache_dir / "converted" / f"{source.sha256[:32]}-{_NAMES[dtype].lower()}-{_REVISION}.safetensors"


def mapped(path: Path) -> Weights | None:
    """Return the memory-mapped weights of a converted file; None if there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries: dict[str, _Entry] = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        dims: dict[str, int] = json.loads(entries.pop("__metadata__").get("dims", "null"))
        data = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)[8 + length :]
        return Weights(dims, {name: _viewed(data, entry) for name, entry in entries.items()})
    except (RuntimeError, struct.error, OSError, ValueError, LookupError, TypeError) as error:
        _log.warning("converted file is damaged path=%s error=%s", path, error)
        return None


def _viewed(data: Tensor, entry: _Entry) -> Tensor:
    # safetensors' own safe_open takes 240 ms for the 1,259 tensors of large-v3; views of one mapping take 15.
    begin, end = entry["data_offsets"]
    if end > len(data):
        raise ValueError("it is cut off")
    return data[begin:end].view(_DTYPES[entry["dtype"]]).view(entry["shape"])


def read(source: Source) -> Weights:
    """Return a checkpoint's own tensors, mapped where its format allows. Raises CheckpointDamaged."""
    try:
        checkpoint = _torch_load(source.path)
        dims = {str(name): int(value) for name, value in checkpoint["dims"].items()}
        tensors = {str(name): tensor.detach() for name, tensor in checkpoint["model_state_dict"].items()}
    except _UNREADABLE as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointDamaged(
            path=str(source.path), reason=f"it is no complete Whisper checkpoint ({words[0][:200]})."
        ) from error
    return Weights(dims, tensors)


def convert(weights: Weights, dtype: torch.dtype, *, target: Path) -> Weights:
    """Write the weights in the dtype to target and return them mapped; in memory where the cache cannot be written.

    One tensor at a time is held in memory. Several processes may call it at once: one writes, the others wait.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_suffix(".lock")):
            done = mapped(target)
            if done is None:
                _write(weights, dtype, target=target)
                done = mapped(target)
    except OSError as error:
        _log.warning("conversion not kept, each load is slower path=%s error=%s", target, error.strerror)
        done = None
    return done or Weights(
        weights.dims, {name: tensor.to(_dtype_of(name, dtype)) for name, tensor in weights.tensors.items()}
    )


def _write(weights: Weights, dtype: torch.dtype, *, target: Path) -> None:
    part = target.with_suffix(".part")  # ours alone: the lock is held; what a killed process left is overwritten
    try:
        with part.open("wb") as file:
            _write_header(file, weights, dtype)
            for name, tensor in weights.tensors.items():
                tensor.to(_dtype_of(name, dtype)).contiguous().numpy().tofile(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write_header(file: BinaryIO, weights: Weights, dtype: torch.dtype) -> None:
    """Write the safetensors header (https://github.com/huggingface/safetensors#format), padded to 64 bytes."""
    entries: dict[str, object] = {"__metadata__": {"dims": json.dumps(weights.dims)}}
    at = 0
    for name, tensor in weights.tensors.items():
        kind = _dtype_of(name, dtype)
        end = at + tensor.numel() * kind.itemsize
        entries[name] = {"dtype": _NAMES[kind], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT_BYTES)
    file.write(struct.pack("<Q", len(header)) + header)


def _dtype_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of one tensor: whisper computes layer norms and adds positions in float32."""
    parts = name.split(".")
    norm = len(parts) > 1 and (parts[-2].endswith("ln") or parts[-2] == "ln_post")
    return torch.float32 if norm or parts[-1] == "positional_embedding" else dtype


def _torch_load(path: Path) -> Mapping[str, dict[str, Tensor]]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True)
