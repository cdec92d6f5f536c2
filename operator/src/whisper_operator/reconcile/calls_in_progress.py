"""Loads and unloads of pods: they take their time, so they run beside the reconciler, at most one for each pod."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine
from dataclasses import dataclass
from enum import StrEnum

import structlog

from whisper_cluster.errors import NotLeading, PodRefused, PodUnreachable
from whisper_cluster.pods import Address, PodClient
from whispermodel.key import Key
from whispermodel.states import Depth, State
from whispermodel.wire import LoadAnswer, UnloadAnswer

log = structlog.stdlib.get_logger(__name__)


class PodAction(StrEnum):
    """What a pod is called for."""

    LOAD = "load"
    UNLOAD_WARM = "warm"
    UNLOAD_COLD = "cold"

    @property
    def transition(self) -> State:
        """The state that the action brings a model into."""
        return State.LOADING if self is PodAction.LOAD else State.UNLOADING


@dataclass(frozen=True, slots=True)
class PodCall:
    """One call to one pod."""

    action: PodAction
    """What to do."""

    pod: str
    """The pod's uid."""

    address: Address
    """Where its server listens."""

    releases: bool
    """Whether it holds a model, and not only a zygote."""

    @property
    def transition(self) -> State:
        """The state of the pod meanwhile: Loading, Unloading, or Unloaded while only the zygote ends."""
        return self.action.transition if self.releases or self.action is PodAction.LOAD else State.UNLOADED


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call led to. transition: the state of the pod meanwhile. result: the server's answer, or the error."""

    pod: str
    transition: State
    result: LoadAnswer | UnloadAnswer | PodRefused | PodUnreachable

    @property
    def failed(self) -> bool:
        """Whether the call failed."""
        return isinstance(self.result, PodRefused | PodUnreachable)


class PodCalls:
    """Runs the calls, and keeps their outcomes until the reconciler takes them.

    on_outcome: called with the model's key when a call ends.
    """

    def __init__(self, pods: PodClient, on_outcome: Callable[[Key], None]) -> None:
        self._pods = pods
        self._on_outcome = on_outcome
        self._running: dict[tuple[Key, str], tuple[State, asyncio.Task[None]]] = {}
        self._outcomes: dict[Key, list[Outcome]] = {}

    def in_progress(self, key: Key, pod: str) -> State | None:
        """Return what a call to a pod is bringing; None: no call to it is in progress."""
        running = self._running.get((key, pod))
        return running[0] if running else None

    def start(self, key: Key, call: PodCall) -> None:
        """Start a call to a pod. An unload cancels a load in progress, here and on the server."""
        if call.action is PodAction.LOAD:
            self._start(key, call, self._pods.load(call.address))
            return
        running = self._running.pop((key, call.pod), None)
        if running is not None:
            running[1].cancel()
        depth = Depth.WARM if call.action is PodAction.UNLOAD_WARM else Depth.COLD
        self._start(key, call, self._pods.unload(call.address, depth=depth))

    def _start(self, key: Key, call: PodCall, request: Coroutine[object, object, LoadAnswer | UnloadAnswer]) -> None:
        task = asyncio.create_task(self._run(key, call, request))
        self._running[key, call.pod] = (call.transition, task)
        task.add_done_callback(lambda ended: self._drop(key, call.pod, ended))

    def _drop(self, key: Key, pod: str, ended: asyncio.Task[None]) -> None:
        running = self._running.get((key, pod))
        if running is not None and running[1] is ended:
            del self._running[key, pod]

    def take(self, key: Key) -> list[Outcome]:
        """Return the outcomes of a model's calls since the last time, in order."""
        return self._outcomes.pop(key, [])

    def abandon(self, key: Key, *, all_but: Container[str] = ()) -> None:
        """Cancel a model's calls to pods that are gone."""
        for (model, pod), (_, task) in list(self._running.items()):
            if model == key and pod not in all_but:
                task.cancel()

    def forget(self, key: Key) -> None:
        """Cancel all of a model's calls, and drop their outcomes."""
        self.abandon(key)
        self._outcomes.pop(key, None)

    async def stop(self) -> None:
        """Cancel all calls; the servers carry on with what was requested."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(
        self, key: Key, call: PodCall, request: Coroutine[object, object, LoadAnswer | UnloadAnswer]
    ) -> None:
        try:
            result: LoadAnswer | UnloadAnswer | PodRefused | PodUnreachable | NotLeading = await request
        except (PodRefused, PodUnreachable, NotLeading) as error:
            log.warning("pod.call_failed", whispermodel=str(key), pod=call.pod, reason=str(error))
            result = error
        # A request that was not sent says nothing about the pod.
        if not isinstance(result, NotLeading):
            self._outcomes.setdefault(key, []).append(Outcome(call.pod, call.transition, result))
        # Before the reconciler looks: to it, the call must not be in progress any more.
        self._running.pop((key, call.pod), None)
        self._on_outcome(key)
