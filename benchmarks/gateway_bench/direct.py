"""Requests to a pod without the gateway: the same call that the gateway makes (POST /execute)."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

from benchmarks.gateway_bench.site import Site
from testing.live_model import LiveModel
from whisper_inference.execution import EXECUTE_MEDIA_TYPE, JobInput
from whisper_inference.transcripts.transcript import Options
from whisper_inference.worker.protocol import frame

_ORDER = JobInput(job="direct", options=Options(), resume=None, max_audio_seconds=3600.0)


@dataclass(slots=True)
class Direct:
    """A client of one pod."""

    url: str
    """The pod's server."""
    key: str
    """The key with the scope `operator`."""
    _http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=120, trust_env=False))

    @classmethod
    def to(cls, site: Site, model: LiveModel) -> Direct:
        """Return a client of the model's only pod."""
        [server] = model.servers()
        return cls(f"http://{server.address}:{server.port}", site.pod_key())

    def execute(self, audio: bytes) -> None:
        """Send a job and read its messages to the end."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": EXECUTE_MEDIA_TYPE}
        answer = self._http.post(f"{self.url}/execute", content=frame(_ORDER) + audio, headers=headers)
        answer.raise_for_status()
        assert b'"Finished"' in answer.content, answer.text
