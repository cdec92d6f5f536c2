"""How much memory a model will hold, before it has been loaded for the first time."""

from __future__ import annotations

from whispermodel.catalog import ComputeType, Device, Engine, find_size
from whispermodel.spec import ModelChoice

_OVERHEAD_BYTES = {Engine.OPENAI_WHISPER: 720 * 2**20, Engine.FASTER_WHISPER: 330 * 2**20}
"""Server, library and activations, without weights (measured with tiny.en on a CPU: loaded and after a job)."""
_DEFAULT_ON_CPU = {Engine.OPENAI_WHISPER: ComputeType.FLOAT32, Engine.FASTER_WHISPER: ComputeType.INT8}


def estimated_bytes(model: ModelChoice) -> int:
    """Return the memory of all processes of a model's server with the model loaded.

    On a GPU the weights are in its memory, which the server checks by itself.
    """
    overhead = _OVERHEAD_BYTES[model.engine]
    if model.device is Device.CUDA:
        return overhead
    compute_type = model.compute_type or _DEFAULT_ON_CPU[model.engine]
    return overhead + find_size(model.size).weight_bytes(compute_type)
