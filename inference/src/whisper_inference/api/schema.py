"""What FastAPI cannot derive for /openapi.json: streamed forms, and problem answers."""

from __future__ import annotations

from typing import Any

from whisper_inference.transcripts.formats import MEDIA_TYPES

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}

_REASONS = {
    400: "Malformed.",
    401: "No valid API key.",
    403: "The key lacks the required scope.",
    404: "Not found.",
    409: "Conflicts with the current state.",
    413: "The audio exceeds the size limit.",
    415: "Not recognised as audio.",
    422: "Audio, but damaged or too long.",
    429: "Too many waiting clients, or too much stored audio.",
    500: "The engine failed.",
    503: "Cannot be served now; Retry-After says when to retry.",
    507: "The disk is full, or the model does not fit.",
}

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Return the documentation of error answers (RFC 9457)."""
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {status: {"description": _REASONS[status], "content": content} for status in (*statuses, 401, 403, 500)}


def openai_errors(*statuses: int) -> Responses:
    """Return the documentation of error answers in OpenAI's shape."""
    content = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    return {status: {"description": _REASONS[status], "content": content} for status in (*statuses, 401, 403, 500)}


RESOURCE: Responses = {
    200: {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["apiVersion", "kind", "metadata", "spec", "status"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"const": "WhisperModel"},
                        "metadata": {"type": "object", "required": ["name", "generation"]},
                        "spec": {"type": "object"},
                        "status": {"type": "object"},
                    },
                }
            }
        }
    }
}
"""The schema itself is the CRD's."""


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {"file": {"type": "string", "format": "binary"}, **properties},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_LANGUAGE = {"type": "string", "description": "A code or English name that Whisper knows; auto detects it."}
_TEMPERATURE = {"type": "number", "minimum": 0, "maximum": 1}

JOB_FORM = _form(
    {
        "language_in": {**_LANGUAGE, "default": "auto"},
        "task": {"type": "string", "enum": ["transcribe", "translate"], "default": "transcribe"},
        "word_timestamps": {"type": "boolean", "default": False},
        "initial_prompt": {"type": "string"},
        "start_within": {
            "type": "string",
            "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
            "description": "How long the job may wait before it starts, such as 10m; then it fails.",
        },
        "temperature": _TEMPERATURE,
    }
)

_OPENAI_COMMON = {
    "model": {"type": "string", "description": "The served model, or whisper-1."},
    "prompt": {"type": "string"},
    "response_format": {"type": "string", "enum": list(MEDIA_TYPES), "default": "json"},
    "temperature": _TEMPERATURE,
}
_GRANULARITIES = {"type": "array", "items": {"type": "string", "enum": ["segment", "word"]}}

TRANSCRIPTION_FORM = _form(
    {
        **_OPENAI_COMMON,
        "language": _LANGUAGE,
        "timestamp_granularities": _GRANULARITIES,
        "timestamp_granularities[]": _GRANULARITIES,
        "stream": {"type": "boolean", "default": False},
    }
)

TRANSLATION_FORM = _form(_OPENAI_COMMON)
