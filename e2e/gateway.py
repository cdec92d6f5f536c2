"""The gateway of a release: requests through its Service, and its replacement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import openai

from e2e.cluster import Cluster
from e2e.model import Model
from e2e.release import Release
from e2e.speech import PORT, Speech, client_key, speaking_to

NAME = "whisper-gateway"
_ROLLOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Gateway:
    """The gateway of one release."""

    cluster: Cluster
    """Where it runs."""
    release: Release
    """The release that it belongs to."""

    def speaking(self, model: Model) -> AbstractContextManager[Speech]:
        """Return a client of a model, through the gateway's Service, for the time of a block."""
        named = {"X-Whisper-Model": f"{model.namespace}/{model.name}"}
        return speaking_to(self.cluster, f"service/{NAME}", namespace=self.release.namespace, **named)

    @contextmanager
    def openai_client(self) -> Iterator[openai.OpenAI]:
        """Yield OpenAI's own client with its defaults, until the block ends."""
        namespace = self.release.namespace
        key = client_key(self.cluster, namespace)
        with (
            self.cluster.forwarded(f"service/{NAME}", PORT, namespace=namespace) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client,
        ):
            yield client

    def roll(self) -> None:
        """Replace its pod as an upgrade does, and wait for the new one."""
        self._kubectl("rollout", "restart", f"statefulset/{NAME}")
        self._wait()

    def kill(self) -> None:
        """Kill its pod without a warning, and wait for the new one."""
        self._kubectl("delete", "pod", f"{NAME}-0", "--grace-period=0", "--force")
        self._wait()

    def _wait(self) -> None:
        self._kubectl("rollout", "status", f"statefulset/{NAME}", f"--timeout={_ROLLOUT_SECONDS}s")

    def _kubectl(self, *arguments: str) -> None:
        self.cluster.kubectl(*arguments, "--namespace", self.release.namespace, seconds=2 * _ROLLOUT_SECONDS)
