"""Why a pod cannot serve: the root cause, from what Kubernetes reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from whisper_cluster.api import DEPLOYMENTS, NETWORK_POLICIES, SECRETS, SERVICES
from whisper_cluster.errors import ClusterError
from whisper_cluster.objects import ContainerStatus, Deployment, Pod
from whisper_operator.errors import NameTaken

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ErrImageInspect"}
)
"""Waiting reasons (pkg/kubelet/images/types.go) which mean that the image cannot be pulled."""
_BACKING_OFF = re.compile(r'^Back-off pulling image "[^"]*"(: ErrImagePull: )?')
"""The prefix that the kubelet adds between two attempts; with it, the message would keep changing."""
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})

UNSCHEDULABLE = "Unschedulable"

_OUT_OF_MEMORY, _CRASH = "OutOfMemory", "Crash"
CONTAINER_ENDS = frozenset({_OUT_OF_MEMORY, _CRASH})
"""Reasons of a container that ended, and that the kubelet restarts."""

ENDED_LATELY = timedelta(minutes=2)
"""How long a pod that ended explains why one is missing: a node that rejects a pod rejects the next within seconds."""
START_LIMIT = timedelta(minutes=2)
"""How long a node may take to start a scheduled pod before it is reported as late."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A root cause."""

    reason: str
    """In CamelCase, as in conditions."""

    message: str
    """What happened, and what to do."""

    exit_code: int | None = None
    """The exit code of the container; None: no container ended."""

    count: int = 1
    """How often it has happened."""


def failure_of(pod: Pod) -> Failure | None:
    """Return why a pod that should serve does not; None: it serves, or is starting."""
    return next(_causes(pod), None)


def ended_failure_of(pods: Iterable[Pod], now: datetime) -> Failure | None:
    """Return why the latest pod ended, if that was recently: its node evicted or rejected it."""
    ended = [(at, pod) for pod in pods if (at := pod.ended_at) and now - at < ENDED_LATELY]
    return failure_of(max(ended, key=lambda one: one[0])[1]) if ended else None


def late_start_of(pod: Pod, now: datetime) -> Failure | None:
    """Return the warning about a pod that its node does not start.

    The cause, such as a missing volume, is only in the kubelet's Events, which the operator has no right to read.
    """
    since = pod.awaits_its_start_since
    if since is None or now - since < START_LIMIT:
        return None
    name, namespace = pod.metadata.name, pod.metadata.namespace
    return Failure(
        "StartTimeout",
        f"The containers of pod {name} have not started: its image is still being pulled, or something that it mounts "
        f"is missing. Run 'kubectl describe pod {name} -n {namespace}' to see which.",
    )


def replica_failure_of(deployment: Deployment | None) -> Failure | None:
    """Return why a Deployment's pods are not created, such as a quota."""
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
_KINDS = {one.plural: one.kind for one in (DEPLOYMENTS, SERVICES, NETWORK_POLICIES, SECRETS)}


def refusal_of(error: ClusterError) -> Failure:
    """Return the failure for an object that the API server rejects permanently; raise any other error."""
    if not error.is_refusal:
        raise error
    if isinstance(error, NameTaken):
        return Failure("NameTaken", f"{error.reason}.")
    plural, name = error.action.split("/")[-2:]
    return Failure(_REFUSED[plural], f"The API server rejected {_KINDS[plural]} '{name}': {error.reason}")


def _causes(pod: Pod) -> Iterator[Failure]:
    if pod.status.phase == "Failed":
        reason = pod.status.reason or "PodFailed"
        # Without the pod's name: while the node rejects pods, there is a new one every few seconds.
        yield Failure(reason, f"A pod failed on its node: {(pod.status.message or reason).rstrip('. ')}.")
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            yield Failure(UNSCHEDULABLE, f"Pod {pod.metadata.name} cannot be scheduled: {condition.message}")
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
    # A container that ended and has started again, according to its startup probe, has recovered: ask it, even if it is
    # too busy to be ready.
    if ended and not (container.ready or container.started):
        if ended.reason == "OOMKilled":
            yield Failure(
                _OUT_OF_MEMORY,
                f"Pod {pod} exceeded its memory limit: raise the limit in spec.pod.resources.",
                137,
                _restarts(container),
            )
        elif ended.exit_code or container.restart_count:
            output = f": {ended.message}" if ended.message else ""
            message = f"The container of pod {pod} exited with code {ended.exit_code}{output}."
            yield Failure(_CRASH, message, ended.exit_code, _restarts(container))


def _restarts(container: ContainerStatus) -> int:
    return max(1, container.restart_count)
