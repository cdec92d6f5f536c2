"""All errors that a caller can receive, with their HTTP status; their messages are in messages.py.

An error is a code and its parameters, so that the worker can send it to the API process, which renders it in the
caller's language.
"""

from __future__ import annotations

from typing import ClassVar

from whisper_inference.messages import Language, render

Param = str | int | float


class KeyFileError(ValueError):
    """The key file is invalid; the message says why and never contains a digest."""


class ServiceError(Exception):
    """An error with a message that says what happened and what to do; api/problem.py maps it to HTTP."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, *, retry_after: float | None = None, **params: Param) -> None:
        super().__init__(self.code, params)
        self.retry_after = retry_after
        self.params = params

    def detail(self, language: Language = "en") -> str:
        """Return the message."""
        return render(self.code, language, self.params)

    def __str__(self) -> str:
        return self.detail()


class MalformedRequest(ServiceError):
    """Parameter reason: what is wrong."""

    status, code = 400, "malformed-request"


class Unauthenticated(ServiceError):
    status, code = 401, "unauthenticated"


class ScopeMissing(ServiceError):
    """Parameter scope: the missing one."""

    status, code = 403, "scope-missing"


class JobNotFound(ServiceError):
    """Parameter job: its id."""

    status, code = 404, "job-not-found"


class ModelNotFound(ServiceError):
    """Parameter model: the requested name."""

    status, code = 404, "model-not-found"


class ModelNotNamed(ServiceError):
    """Parameter models: the names of some that are served."""

    status, code = 400, "model-not-named"


class ModelAmbiguous(ServiceError):
    """Parameters model: the requested name; models: those that it stands for."""

    status, code = 400, "model-ambiguous"


class NoModelFile(ServiceError):
    status, code = 404, "no-model-file"


class ResultNotReady(ServiceError):
    """Parameters job, job_status."""

    status, code = 409, "result-not-ready"


class IdempotencyConflict(ServiceError):
    """Parameters key, job: the one that used the key for a different request."""

    status, code = 409, "idempotency-conflict"


class JobCancelled(ServiceError):
    """Parameter job: its id."""

    status, code = 409, "job-cancelled"


class Superseded(ServiceError):
    """Parameters command, by: the later command that replaced it."""

    status, code = 409, "superseded"


class Overruled(ServiceError):
    """Parameter decision: a sentence that says what was decided, and by which rule."""

    status, code = 409, "overruled"


class AudioTooLarge(ServiceError):
    """Parameter limit_bytes."""

    status, code = 413, "audio-too-large"


class NotAudio(ServiceError):
    """Parameter reason: the decoder's message."""

    status, code = 415, "not-audio"


class AudioDamaged(ServiceError):
    """Parameter reason: the decoder's message."""

    status, code = 422, "audio-damaged"


class AudioTooLong(ServiceError):
    """Parameters seconds, limit_seconds."""

    status, code = 422, "audio-too-long"


class TooManyWaiting(ServiceError):
    """Parameter limit: how many clients may wait for a result."""

    status, code = 429, "too-many-waiting"


class TooManyUploads(ServiceError):
    """Parameter limit: how many clients with the same key may be sending their audio."""

    status, code = 429, "too-many-uploads"


class TooManyStoredBytes(ServiceError):
    """Parameter limit_bytes: for the stored audio of all jobs."""

    status, code = 429, "too-many-stored-bytes"


class LoadFailed(ServiceError):
    """Parameter cause: the engine's message, and what to do."""

    status, code = 503, "model-load-failed"


class CheckpointMissing(ServiceError):
    """Parameters path, hint."""

    status, code = 503, "checkpoint-missing"


class CheckpointDamaged(ServiceError):
    """Parameters path, reason."""

    status, code = 503, "checkpoint-damaged"


class DownloadFailed(ServiceError):
    """Parameters model, url, reason."""

    status, code = 503, "download-failed"


class EngineMissing(ServiceError):
    """Parameters engine, extra: the optional dependency that installs it."""

    status, code = 503, "engine-missing"


class NotStartedInTime(ServiceError):
    """Parameters limit: the duration that the client set; cause: what kept the job waiting, a sentence."""

    status, code = 503, "not-started-in-time"


class WaitedTooLong(ServiceError):
    """Parameters job, seconds: a synchronous caller timed out; the job is still running."""

    status, code = 503, "waited-too-long"


class ShuttingDown(ServiceError):
    status, code = 503, "shutting-down"


class RefusedForNow(ServiceError):
    status, code = 503, "refused-for-now"


class RefusedUntil(ServiceError):
    """Parameter accepts_at: when new work is accepted again, in the schedule's time zone."""

    status, code = 503, "refused-until"


class ClusterUnreachable(ServiceError):
    """Parameter reason: what the client of the API server says."""

    status, code = 503, "cluster-unreachable"


class ModelUnavailable(ServiceError):
    """Parameters cause: a word for programs, such as image-pull-failed; reason: a sentence of the operator's."""

    status, code = 503, "model-unavailable"


class WorkerLost(ServiceError):
    """Parameters cause, attempts: how often the worker crashed."""

    status, code = 500, "worker-lost"


class TranscriptionFailed(ServiceError):
    """Parameter reason: the engine's message."""

    status, code = 500, "transcription-failed"


class DataFolderBusy(ServiceError):
    """Parameters folder, pid: the server that uses it."""

    status, code = 503, "data-folder-busy"


class DataFolderTooNew(ServiceError):
    """Parameters found, known: versions of the database schema."""

    status, code = 503, "data-folder-too-new"


class StorageUnusable(ServiceError):
    """Parameters place, reason: the system's message."""

    status, code = 503, "storage-unusable"


class DatabaseUnavailable(ServiceError):
    """Parameter reason: the database's message, such as that it is locked or read-only."""

    status, code = 503, "database-unavailable"


class DiskFull(ServiceError):
    status, code = 507, "disk-full"


class ModelDoesNotFit(ServiceError):
    """Parameters needed_bytes, available_bytes, where (memory or GPU memory)."""

    status, code = 507, "model-does-not-fit"


def error_of(code: str, params: dict[str, Param]) -> ServiceError:
    """Recreate an error that another process sent; an unknown code becomes TranscriptionFailed."""
    kinds = {kind.code: kind for kind in ServiceError.__subclasses__()}
    if code not in kinds:
        return TranscriptionFailed(reason=f"{code} {params}")
    error = kinds[code]()
    error.params = params
    return error
