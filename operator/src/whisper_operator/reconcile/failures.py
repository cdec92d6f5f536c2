"""Why a pod cannot serve: its root cause, found in what Kubernetes reports of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from whisper_cluster.errors import ClusterError
from whisper_cluster.objects import ContainerStatus, Deployment, Pod
from whisper_operator.errors import NameTaken

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ErrImageInspect"}
)
"""Waiting reasons of pkg/kubelet/images/types.go that mean: the image cannot be had."""
_BACKING_OFF = re.compile(r'^Back-off pulling image "[^"]*"(: ErrImagePull: )?')
"""What the kubelet puts before the cause between two attempts: with it the words would change all the time."""
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})

UNSCHEDULABLE = "Unschedulable"

_OUT_OF_MEMORY, _CRASH = "OutOfMemory", "Crash"
CONTAINER_ENDS = frozenset({_OUT_OF_MEMORY, _CRASH})
"""Reasons of a container that ended and is started again by itself."""

ENDED_LATELY = timedelta(minutes=2)
"""For so long a pod that has ended tells why another is needed: a node that refuses one refuses the next in seconds."""
START_LIMIT = timedelta(minutes=2)
"""For so long nobody need wonder what a pod's node does with it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A root cause. reason: CamelCase, for conditions. message: what happened, and what to do. count: how often."""

    reason: str
    message: str
    exit_code: int | None = None
    count: int = 1


def failure_of(pod: Pod) -> Failure | None:
    """Return why a pod that should serve does not; None: it serves, or is on its way."""
    return next(_causes(pod), None)


def ended_failure_of(pods: Iterable[Pod], now: datetime) -> Failure | None:
    """Return why the pod that ended last did so, if that was lately: its node turned it out, or would not run it."""
    ended = [(at, pod) for pod in pods if (at := pod.ended_at) and now - at < ENDED_LATELY]
    return failure_of(max(ended, key=lambda one: one[0])[1]) if ended else None


def late_start_of(pod: Pod, now: datetime) -> Failure | None:
    """Return what is told of a pod that its node does not start.

    The cause, such as a missing volume, stands in the kubelet's Events alone, which the operator may not read.
    """
    since = pod.awaits_its_start_since
    if since is None or now - since < START_LIMIT:
        return None
    name, namespace = pod.metadata.name, pod.metadata.namespace
    return Failure(
        "StartTimeout",
        f"The containers of pod {name} are not started: its image is still pulled, or something that it mounts is "
        f"missing. 'kubectl describe pod {name} -n {namespace}' tells.",
    )


def replica_failure_of(deployment: Deployment | None) -> Failure | None:
    """Return why a Deployment's pods are not even created, such as a quota."""
    for condition in deployment.status.conditions if deployment else ():
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return Failure("PodsRefused", f"The pods cannot be created: {condition.message}")
    return None


_REFUSED = {
    "deployments": "DeploymentRefused",
    "services": "ServiceRefused",
    "networkpolicies": "NetworkPolicyRefused",
    "secrets": "KeyRefused",
}


def refusal_of(error: ClusterError) -> Failure:
    """Return what is told of an object that cannot be applied however often it is sent; raise any other error."""
    if not error.is_refusal:
        raise error
    if isinstance(error, NameTaken):
        return Failure("NameTaken", f"{error.reason}.")
    plural = error.action.split("/")[-2]
    return Failure(_REFUSED[plural], f"The API server refuses it: {error.reason}")


def _causes(pod: Pod) -> Iterator[Failure]:
    if pod.status.phase == "Failed":
        reason = pod.status.reason or "PodFailed"
        # Without its name: as long as the node refuses, there is another pod every few seconds.
        yield Failure(reason, f"A pod has failed on its node: {(pod.status.message or reason).rstrip('. ')}.")
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            yield Failure(UNSCHEDULABLE, f"No node takes pod {pod.metadata.name}: {condition.message}")
    for container in pod.status.container_statuses:
        yield from _causes_in(container, pod.metadata.name)


def _causes_in(container: ContainerStatus, pod: str) -> Iterator[Failure]:
    waiting = container.state.waiting
    if waiting and waiting.reason in _IMAGE_REASONS:
        yield Failure(
            "ImagePull", f"The image cannot be pulled: {_BACKING_OFF.sub('', waiting.message) or waiting.reason}"
        )
    if waiting and waiting.reason in _CONFIG_REASONS:
        yield Failure(
            "ContainerConfig", f"The container of pod {pod} cannot be created: {waiting.message or waiting.reason}"
        )
    ended = container.state.terminated or container.last_state.terminated
    # A container that ended once and has started again, as its startup probe found, has recovered: it is asked, though
    # it be too busy to look ready.
    if ended and not (container.ready or container.started):
        if ended.reason == "OOMKilled":
            yield Failure(
                _OUT_OF_MEMORY,
                f"Pod {pod} used more memory than its limit: raise spec.pod.resources.",
                137,
                _restarts(container),
            )
        elif ended.exit_code or container.restart_count:
            words = f": {ended.message}" if ended.message else ""
            message = f"The container of pod {pod} exited with code {ended.exit_code}{words}."
            yield Failure(_CRASH, message, ended.exit_code, _restarts(container))


def _restarts(container: ContainerStatus) -> int:
    return max(1, container.restart_count)
