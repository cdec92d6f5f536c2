"""Calls to pods that take their time: loads and unloads, beside the reconciler, at most one for each pod."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine
from dataclasses import dataclass

import structlog

from whisper_cluster.cache import Key
from whisper_cluster.errors import NotLeading, PodRefused, PodUnreachable
from whisper_cluster.pods import Loaded, Unloaded
from whispermodel.spec import State

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call. transition: what it had the pod do. result: the server's answer, or why there is none."""

    pod: str
    transition: State
    result: Loaded | Unloaded | PodRefused | PodUnreachable

    @property
    def failed(self) -> bool:
        """Whether nothing came of it."""
        return isinstance(self.result, PodRefused | PodUnreachable)


class PodCalls:
    """Runs the calls and keeps their outcomes until the reconciler takes them."""

    def __init__(self, on_outcome: Callable[[Key], None]) -> None:
        self._on_outcome = on_outcome
        self._running: dict[tuple[Key, str], tuple[State, asyncio.Task[None]]] = {}
        self._outcomes: dict[Key, list[Outcome]] = {}

    def in_progress(self, key: Key, pod: str) -> State | None:
        """Return the state of a pod that a call has moving: Loading, Unloading, or Unloaded while its zygote goes."""
        running = self._running.get((key, pod))
        return running[0] if running else None

    def load(self, key: Key, pod: str, call: Coroutine[object, object, Loaded]) -> None:
        """Begin a load of a pod to which no call runs."""
        self._start(key, pod, call, transition=State.LOADING)

    def unload(self, key: Key, pod: str, call: Coroutine[object, object, Unloaded], *, releases: bool) -> None:
        """Begin an unload of a pod; a load that is under way is given up here, and by the server for the unload.

        releases: whether a model goes; otherwise only the zygote of one that is unloaded already.
        """
        running = self._running.pop((key, pod), None)
        if running is not None:
            running[1].cancel()
        self._start(key, pod, call, transition=State.UNLOADING if releases else State.UNLOADED)

    def _start(
        self, key: Key, pod: str, call: Coroutine[object, object, Loaded | Unloaded], *, transition: State
    ) -> None:
        task = asyncio.create_task(self._run(key, pod, call, transition=transition))
        self._running[key, pod] = (transition, task)
        task.add_done_callback(lambda ended: self._drop(key, pod, ended))

    def _drop(self, key: Key, pod: str, ended: asyncio.Task[None]) -> None:
        running = self._running.get((key, pod))
        if running is not None and running[1] is ended:
            del self._running[key, pod]

    def take(self, key: Key) -> list[Outcome]:
        """Return what has come of a model's calls since the last time, in order."""
        return self._outcomes.pop(key, [])

    def abandon(self, key: Key, *, all_but: Container[str] = ()) -> None:
        """Give up a model's calls to pods that are gone."""
        for (model, pod), (_, task) in list(self._running.items()):
            if model == key and pod not in all_but:
                task.cancel()

    def forget(self, key: Key) -> None:
        """Give up all of a model's calls and what came of them."""
        self.abandon(key)
        self._outcomes.pop(key, None)

    async def stop(self) -> None:
        """Give up all calls; the servers go on with what they were asked for."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(
        self, key: Key, pod: str, call: Coroutine[object, object, Loaded | Unloaded], *, transition: State
    ) -> None:
        try:
            result: Loaded | Unloaded | PodRefused | PodUnreachable | NotLeading = await call
        except (PodRefused, PodUnreachable, NotLeading) as error:
            log.warning("pod.call_failed", whispermodel=str(key), pod=pod, reason=str(error))
            result = error
        # What was not sent says nothing of the pod.
        if not isinstance(result, NotLeading):
            self._outcomes.setdefault(key, []).append(Outcome(pod, transition, result))
        # Not among the running ones any more when the reconciler looks.
        self._running.pop((key, pod), None)
        self._on_outcome(key)
