"""Why a pod cannot serve: the root cause in what Kubernetes reports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from testing.operator_harness import NOON, pod_of, seconds
from whisper_cluster.objects import Pod
from whisper_operator.reconcile.failures import Failure, ended_failure_of, failure_of, late_start_of

NOT_FOUND = 'rpc error: code = NotFound desc = failed to pull and unpack image "nowhere/whisper:1": not found'
SCHEDULED = {"type": "PodScheduled", "status": "True"}

EXCEEDED = "Pod base-1 exceeded its memory limit: raise the limit in spec.pod.resources."


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def crashed(code: int, *, reason: str = "Error", restarts: int = 0, **more: Any) -> dict[str, Any]:
    ended = {"exitCode": code, "reason": reason, **more}
    return {
        "restartCount": restarts,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
        "lastState": {"terminated": ended},
    }


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        pytest.param(waiting("ErrImagePull", NOT_FOUND), f"The image cannot be pulled: {NOT_FOUND}", id="at first"),
        pytest.param(
            waiting("ImagePullBackOff", f'Back-off pulling image "nowhere/whisper:1": ErrImagePull: {NOT_FOUND}'),
            f"The image cannot be pulled: {NOT_FOUND}",
            id="between two attempts, in the same words",
        ),
        pytest.param(
            waiting("ImagePullBackOff", 'Back-off pulling image "nowhere/whisper:1"'),
            "The image cannot be pulled: ImagePullBackOff",
            id="from a kubelet that says no more",
        ),
        pytest.param(
            waiting("InvalidImageName", 'Failed to apply default image tag "A:B:C"'),
            'The image cannot be pulled: Failed to apply default image tag "A:B:C"',
            id="of a name that is none",
        ),
        pytest.param(waiting("ErrImageNeverPull"), "The image cannot be pulled: ErrImageNeverPull", id="never"),
    ],
)
def test_image_pull_failure(container: dict[str, Any], expected: str) -> None:
    assert failure_of(pod_of(container=container)) == Failure("ImagePull", expected)


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        pytest.param(
            waiting("CreateContainerConfigError", 'secret "whisper-operator-keys" not found'),
            Failure("ContainerConfig",
                    'The container of pod base-1 cannot be created: secret "whisper-operator-keys" not found'),
            id="a Secret is missing",
        ),
        pytest.param(
            crashed(137, reason="OOMKilled", restarts=2),
            Failure("OutOfMemory", EXCEEDED, 137, 2),
            id="more memory than its limit",
        ),
        pytest.param(
            {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
            Failure("OutOfMemory", EXCEEDED, 137, 1),
            id="more memory than its limit, just now",
        ),
        pytest.param(
            crashed(3, restarts=4),
            Failure("Crash", "The container of pod base-1 exited with code 3.", 3, 4),
            id="a crash",
        ),
        pytest.param(
            crashed(2, message="WHISPER_MODL is not a setting"),
            Failure("Crash", "The container of pod base-1 exited with code 2: WHISPER_MODL is not a setting.", 2, 1),
            id="a crash with last words",
        ),
        pytest.param(
            crashed(0, reason="Completed", restarts=1),
            Failure("Crash", "The container of pod base-1 exited with code 0.", 0, 1),
            id="a server that ends by itself again and again",
        ),
        pytest.param(
            {"restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}},
            Failure("Crash", "The container of pod base-1 exited with code 1.", 1, 1),
            id="started again and not ready yet",
        ),
    ],
)  # fmt: skip
def test_container_failure(container: dict[str, Any], expected: Failure) -> None:
    assert failure_of(pod_of(container=container)) == expected


def test_unschedulable_pod() -> None:
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    pod = pod_of(phase="Pending", podIP="", conditions=[unscheduled])
    assert failure_of(pod) == Failure("Unschedulable", f"Pod base-1 cannot be scheduled: {words}")


def test_evicted_pod() -> None:
    pod = pod_of(phase="Failed", reason="Evicted", message="The node was low on resource: memory")
    assert failure_of(pod) == Failure("Evicted", "A pod failed on its node: The node was low on resource: memory.")


def ended(name: str, *, at: datetime, created: datetime = NOON, reason: str = "Evicted") -> Pod:
    """Return an evicted pod."""
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": at.isoformat()}]
    pod = pod_of(name, phase="Failed", reason=reason, conditions=conditions)
    return pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"creation_timestamp": created})})


def test_latest_ended_pod_gives_the_cause() -> None:
    pods = [ended("a", at=NOON), ended("b", at=NOON + seconds(1), reason="OutOfcpu"), pod_of("c")]
    found = ended_failure_of(pods, NOON + seconds(2))
    assert found is not None
    assert found.reason == "OutOfcpu"


def test_rejected_pod_ended_at_its_creation() -> None:
    refused = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "conditions": [], "podIP": ""}
    pod = pod_of(**refused)
    made = pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"creation_timestamp": NOON})})
    found = ended_failure_of([made], NOON + seconds(1))
    assert found == Failure("UnexpectedAdmissionError", "A pod failed on its node: UnexpectedAdmissionError.")


def test_pod_that_ended_long_ago_is_ignored() -> None:
    assert ended_failure_of([ended("a", at=NOON)], NOON + seconds(120)) is None
    assert ended_failure_of([ended("a", at=NOON, created=NOON - seconds(9999))], NOON + seconds(119)) is not None


def test_running_pods_have_not_ended() -> None:
    assert ended_failure_of([pod_of()], NOON) is None


def on_its_node(since: datetime, phase: str = "Pending") -> Pod:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": since.isoformat()}
    return pod_of(phase=phase, podIP="", conditions=[scheduled], container=waiting("ContainerCreating"))


def test_late_start_is_reported_with_a_command_to_run() -> None:
    found = late_start_of(on_its_node(NOON), NOON + seconds(120))
    assert found is not None
    assert found.reason == "StartTimeout"
    assert "'kubectl describe pod base-1 -n speech'" in found.message


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(on_its_node(NOON + seconds(1)), id="it has a little time left"),
        pytest.param(on_its_node(NOON - seconds(600), phase="Running"), id="its container was started"),
        pytest.param(pod_of(phase="Pending", podIP="", conditions=[]), id="it has no node yet"),
    ],
)
def test_start_is_not_late(pod: Pod) -> None:
    assert late_start_of(pod, NOON + seconds(120)) is None


@pytest.mark.parametrize(
    ("container", "status"),
    [
        pytest.param({"ready": True, "state": {"running": {}}}, {}, id="a pod that serves"),
        pytest.param(
            {"ready": True, "restartCount": 3, "state": {"running": {}},
             "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}},
            {}, id="one that crashed and serves again",
        ),
        pytest.param(
            {"ready": False, "started": True, "restartCount": 1, "state": {"running": {}},
             "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}},
            {}, id="one that crashed, has started again, and is too busy to look ready",
        ),
        pytest.param(waiting("ContainerCreating"), {"phase": "Pending"}, id="one whose container is made"),
        pytest.param(None, {"phase": "Pending", "podIP": "", "conditions": [SCHEDULED]}, id="one that was scheduled"),
        pytest.param(None, {"phase": "Pending", "podIP": "", "conditions": []}, id="one without conditions"),
        pytest.param({"state": {"running": {}}}, {}, id="one whose server does not answer yet"),
    ],
)  # fmt: skip
def test_starting_pod_has_not_failed(container: dict[str, Any] | None, status: dict[str, Any]) -> None:
    assert failure_of(pod_of(container=container, **status)) is None


def test_root_cause_is_found_in_any_container() -> None:
    fine = {"name": "mesh", "ready": True, "state": {"running": {}}}
    broken = {"name": "inference", **crashed(1)}
    found = failure_of(pod_of(containerStatuses=[fine, broken]))
    assert found is not None
    assert found.reason == "Crash"
