"""Converts a checkpoint once into a safetensors file, in the dtype used for inference, that can be memory-mapped."""

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

from whisper_inference.engines.checkpoint import Checkpoint
from whisper_inference.engines.download import exclusive_lock
from whisper_inference.errors import CheckpointDamaged

_log = logging.getLogger(__name__)
_REVISION = "1"
_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16"}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
_ALIGNMENT_BYTES = 64
_MAX_HEADER_BYTES = 16 * 2**20
_LOAD_ERRORS = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What torch.load raises on a file that is truncated or not a checkpoint."""


class _Entry(TypedDict):
    """One tensor in a safetensors header; the entry __metadata__ has only dims."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]
    dims: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's tensors, memory-mapped or in memory, and its dimensions."""

    dims: dict[str, int]
    tensors: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        """Return the size of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def converted_path(checkpoint: Checkpoint, dtype: torch.dtype, *, cache_dir: Path) -> Path:
    """Return the path of the converted file of a checkpoint."""
    return cache_dir / "converted" / f"{checkpoint.sha256[:32]}-{_DTYPE_NAMES[dtype].lower()}-{_REVISION}.safetensors"


def map_converted(path: Path) -> Weights | None:
    """Return the memory-mapped weights of a converted file; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries: dict[str, _Entry] = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        dims: dict[str, int] = json.loads(entries.pop("__metadata__").get("dims", "null"))
        data = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)[8 + length :]
        return Weights(dims, {name: _view(data, entry) for name, entry in entries.items()})
    except (RuntimeError, struct.error, OSError, ValueError, LookupError, TypeError) as error:
        _log.warning("converted file is damaged path=%s error=%s", path, error)
        return None


def _view(data: Tensor, entry: _Entry) -> Tensor:
    # safetensors' own safe_open takes 240 ms for the 1,259 tensors of large-v3; views of one mapping take 15 ms.
    begin, end = entry["data_offsets"]
    if end > len(data):
        raise ValueError("it is truncated")
    return data[begin:end].view(_DTYPES[entry["dtype"]]).view(entry["shape"])


def read_checkpoint(checkpoint: Checkpoint) -> Weights:
    """Return the tensors of a checkpoint, memory-mapped if its format allows. Raises CheckpointDamaged."""
    try:
        content = _torch_load(checkpoint.path)
        dims = {str(name): int(value) for name, value in content["dims"].items()}
        tensors = {str(name): tensor.detach() for name, tensor in content["model_state_dict"].items()}
    except _LOAD_ERRORS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointDamaged(
            path=str(checkpoint.path), reason=f"it is not a complete Whisper checkpoint ({lines[0][:200]})."
        ) from error
    return Weights(dims, tensors)


def convert(weights: Weights, dtype: torch.dtype, *, target: Path) -> Weights:
    """Write the weights in the dtype to target and return them memory-mapped; in memory if the cache is not writable.

    Holds one tensor at a time in memory. Several processes may call it at once: one writes, the others wait.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(target.with_suffix(".lock")):
            converted = map_converted(target)
            if converted is None:
                _write(weights, dtype, target=target)
                converted = map_converted(target)
    except OSError as error:
        _log.warning("converted checkpoint not saved, loads stay slow path=%s error=%s", target, error.strerror)
        converted = None
    return converted or Weights(
        weights.dims, {name: tensor.to(_tensor_dtype(name, dtype)) for name, tensor in weights.tensors.items()}
    )


def _write(weights: Weights, dtype: torch.dtype, *, target: Path) -> None:
    part = target.with_suffix(".part")  # safe to overwrite: the lock is held, so it is left over from a killed process
    try:
        with part.open("wb") as file:
            _write_header(file, weights, dtype)
            for name, tensor in weights.tensors.items():
                tensor.to(_tensor_dtype(name, dtype)).contiguous().numpy().tofile(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write_header(file: BinaryIO, weights: Weights, dtype: torch.dtype) -> None:
    """Write the safetensors header (https://github.com/huggingface/safetensors#format), padded to 64 bytes."""
    entries: dict[str, object] = {"__metadata__": {"dims": json.dumps(weights.dims)}}
    offset = 0
    for name, tensor in weights.tensors.items():
        kind = _tensor_dtype(name, dtype)
        end = offset + tensor.numel() * kind.itemsize
        entries[name] = {"dtype": _DTYPE_NAMES[kind], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT_BYTES)
    file.write(struct.pack("<Q", len(header)) + header)


def _tensor_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of one tensor: whisper computes layer norms and adds positional embeddings in float32."""
    parts = name.split(".")
    norm = len(parts) > 1 and (parts[-2].endswith("ln") or parts[-2] == "ln_post")
    return torch.float32 if norm or parts[-1] == "positional_embedding" else dtype


def _torch_load(path: Path) -> Mapping[str, dict[str, Tensor]]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        # Files from before torch 1.6 are not zip archives and cannot be memory-mapped.
        return torch.load(path, map_location="cpu", weights_only=True)
