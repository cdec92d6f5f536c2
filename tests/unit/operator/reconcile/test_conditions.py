"""The conditions of a model in the situations that people meet."""

from __future__ import annotations

from typing import Any

import pytest

from testing.operator_harness import NOON, deployment_of, observation_of, plan_of, view_of
from testing.planner_cases import DAY
from whisper_operator.reconcile.conditions import ConditionInputs, conditions
from whisper_operator.reconcile.failures import Failure
from whisper_operator.reconcile.observation import Observation
from whispermodel.conditions import ConditionType, Finding
from whispermodel.states import State
from whispermodel.status import LastUnload

LEFT_BEHIND = LastUnload(time=NOON, seconds=0.3, freed_resident_bytes=1, freed_gpu_bytes=1, fully_released=False)
IMAGE = Failure("ImagePull", "The image cannot be pulled: not found")
NO_WEIGHTS = Failure("LoadFailed", "There is no checkpoint at '/models/x.pt'.")
ZERO = observation_of()
REFUSING = {"demandPolicy": "Refuse", "desiredState": "Unloaded"}
NIGHTS = [
    {"name": "morning", "cron": "0 8 * * *", "state": "Zero"},
    {"name": "evening", "cron": "0 20 * * *", "state": "Loaded"},
]
NIGHT = {"demandPolicy": "Refuse", "schedule": {"entries": NIGHTS}}
NOWHERE = {"schedule": {**DAY, "timeZone": "Mars/Olympus"}}


def found(
    state: State, observation: Observation, spec: dict[str, Any] | None = None, **more: Any
) -> dict[str, Finding]:
    plan = plan_of(state, **(spec or {}))
    return {one.type.value: one for one in conditions(ConditionInputs(state, plan, observation, **more))}


def of(state: State, *, scaled_by: str | None = None) -> Observation:
    return observation_of(view_of(state), deployment=deployment_of(1, scaled_by=scaled_by))


CASES = [
    pytest.param(
        found(State.LOADED, of(State.LOADED), {"desiredState": "Loaded"}),
        {"Ready": (True, "Loaded"), "ModelLoaded": (True, "Loaded"), "Progressing": (False, "AtRest"),
         "Degraded": (False, "AsAsked"), "ScheduleValid": (True, "Valid"), "ScalerConflict": (False, "Alone")},
        id="loaded as asked",
    ),
    pytest.param(
        found(State.ZERO, ZERO, {"desiredState": "Zero"}),
        {"Ready": (True, "Zero"), "ModelLoaded": (False, "Zero"), "Progressing": (False, "AtRest")},
        id="at zero a request wakes the model, so it is ready",
    ),
    pytest.param(
        found(State.UNLOADED, of(State.UNLOADED), {"desiredState": "Unloaded"}),
        {"Ready": (True, "Unloaded"), "ModelLoaded": (False, "Unloaded"), "Progressing": (False, "AtRest")},
        id="unloaded and ready",
    ),
    pytest.param(
        found(State.STARTING, observation_of(view_of(None)), {"desiredState": "Loaded"}),
        {"Ready": (True, "Starting"), "Progressing": (True, "Starting"), "Degraded": (False, "AsAsked")},
        id="a pod that starts is on its way",
    ),
    pytest.param(
        found(State.LOADING, of(State.LOADING), {"desiredState": "Loaded"}),
        {"Ready": (True, "Loading"), "ModelLoaded": (False, "Loading"), "Progressing": (True, "Loading")},
        id="loading",
    ),
    pytest.param(
        found(State.FAILED, observation_of(view_of(State.FAILED, failure=NO_WEIGHTS)), {"desiredState": "Unloaded"}),
        {"Ready": (False, "LoadFailed"), "Progressing": (False, "AtRest"), "Degraded": (True, "LoadFailed")},
        id="a load that failed and that nobody wants any more",
    ),
    pytest.param(
        found(State.FAILED, observation_of(view_of(None, failure=IMAGE)), {"desiredState": "Unloaded"}),
        {"Progressing": (True, "Failed"), "Degraded": (True, "ImagePull")},
        id="a pod that cannot start is still to come",
    ),
    pytest.param(
        found(State.LOADING, observation_of(view_of(State.LOADING, failure=NO_WEIGHTS)), {"desiredState": "Loaded"}),
        {"Ready": (False, "LoadFailed"), "Progressing": (True, "Loading"), "Degraded": (True, "LoadFailed")},
        id="a load that failed is tried again, and fails until it has succeeded",
    ),
    pytest.param(
        found(State.LOADING, observation_of(view_of(), view_of(State.LOADING, failure=NO_WEIGHTS)), wanted=2),
        {"Ready": (True, "Loaded"), "Degraded": (True, "LoadFailed")},
        id="one pod serves and another one tries again to load",
    ),
    pytest.param(
        found(State.LOADED, of(State.LOADED), {"desiredState": "Zero"}),
        {"ModelLoaded": (True, "Loaded"), "Progressing": (True, "Loaded")},
        id="loaded on the way to zero",
    ),
    pytest.param(
        found(State.FAILED, observation_of(view_of(None, failure=IMAGE)), {"desiredState": "Loaded"}),
        {"Ready": (False, "ImagePull"), "ModelLoaded": (False, "Failed"), "Degraded": (True, "ImagePull")},
        id="a pod that cannot start shows its root cause",
    ),
    pytest.param(
        found(
            State.FAILED, observation_of(view_of(), view_of(None, failure=IMAGE)), {"desiredState": "Loaded"}, wanted=2
        ),
        {"Ready": (True, "Loaded"), "ModelLoaded": (False, "Failed"), "Degraded": (True, "ImagePull")},
        id="one pod serves and another one cannot start",
    ),
    pytest.param(
        found(
            State.FAILED, observation_of(view_of(), view_of(None, unresponsive="timed out")), {"desiredState": "Loaded"}
        ),
        {"Ready": (True, "Loaded"), "Degraded": (True, "Unreachable")},
        id="one pod serves and another one is silent",
    ),
    pytest.param(
        found(State.ZERO, ZERO, {"suspend": True}),
        {"Ready": (False, "Suspended"), "Progressing": (False, "AtRest"), "Degraded": (False, "AsAsked")},
        id="suspended at zero nothing wakes it",
    ),
    pytest.param(
        found(State.UNLOADED, of(State.UNLOADED), {"suspend": True}),
        {"Ready": (True, "Unloaded"), "Progressing": (False, "AtRest")},
        id="suspended with a pod it still loads when work comes",
    ),
    pytest.param(
        found(State.UNLOADED, of(State.UNLOADED), REFUSING),
        {"Ready": (False, "Refused"), "Degraded": (False, "AsAsked")},
        id="new work is refused",
    ),
    pytest.param(
        found(State.STARTING, observation_of(view_of(None, unresponsive="timed out")), {"desiredState": "Loaded"}),
        {"Ready": (None, "Unreachable"), "Degraded": (True, "Unreachable")},
        id="of a silent pod nobody knows",
    ),
    pytest.param(
        found(State.UNLOADED, of(State.UNLOADED), {"desiredState": "Unloaded"}, last_unload=LEFT_BEHIND),
        {"Ready": (True, "Unloaded"), "Degraded": (True, "MemoryNotReleased")},
        id="an unload that left memory behind",
    ),
    pytest.param(
        found(State.LOADED, of(State.LOADED), {"desiredState": "Loaded"}, last_unload=LEFT_BEHIND),
        {"Degraded": (False, "AsAsked")},
        id="memory left behind does not matter once it is used again",
    ),
    pytest.param(
        found(State.UNLOADED, of(State.UNLOADED), NOWHERE),
        {"Ready": (True, "Unloaded"), "ScheduleValid": (False, "InvalidSchedule")},
        id="a schedule that cannot fire",
    ),
    pytest.param(
        found(State.LOADED, of(State.LOADED, scaled_by="keda"), {"desiredState": "Loaded"}),
        {"ScalerConflict": (True, "OtherScaler"), "Ready": (True, "Loaded")},
        id="somebody else scales the Deployment",
    ),
    pytest.param(
        found(State.ZERO, observation_of(deployment=deployment_of(0, scaled_by="keda")), {"desiredState": "Loaded"}),
        {"ScalerConflict": (True, "OtherScaler"), "Ready": (False, "ScalerConflict"),
         "Degraded": (True, "ScalerConflict"), "Progressing": (False, "AtRest")},
        id="somebody else keeps it without a pod",
    ),
    pytest.param(
        found(State.ZERO, observation_of(deployment=deployment_of(0, scaled_by="keda")), {"desiredState": "Zero"}),
        {"ScalerConflict": (True, "OtherScaler"), "Degraded": (False, "AsAsked")},
        id="somebody else keeps it without a pod, where none is wanted",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "expected"), CASES)
def test_conditions(seen: dict[str, Finding], expected: dict[str, tuple[bool | None, str]]) -> None:
    assert {kind: (seen[kind].status, seen[kind].reason) for kind in expected} == expected


@pytest.mark.parametrize(("seen", "expected"), CASES)
def test_every_condition_is_present_with_a_sentence(seen: dict[str, Finding], expected: object) -> None:
    assert set(seen) == set(ConditionType)
    assert all(one.reason.isalpha() for one in seen.values())
    assert all(one.message[:1].isupper() or one.message[:1] in "'0123456789" for one in seen.values())


@pytest.mark.parametrize(
    ("seen", "kind", "words"),
    [
        pytest.param(found(State.FAILED, observation_of(view_of(None, failure=IMAGE))), "Degraded", "not found",
                     id="the root cause in Kubernetes' own words"),
        pytest.param(found(State.UNLOADED, of(State.UNLOADED), NIGHT), "Ready", "until Mon 20:00 UTC",
                     id="until when work is refused"),
        pytest.param(found(State.UNLOADED, of(State.UNLOADED), REFUSING), "Ready", "refused: demandPolicy",
                     id="without a schedule nobody knows until when"),
        pytest.param(found(State.LOADED, observation_of(view_of(None, unresponsive="timed out after 3 s"))),
                     "Degraded", "A pod is not responding: timed out after 3 s", id="what the silent pod did"),
        pytest.param(found(State.UNLOADED, of(State.UNLOADED), NOWHERE), "ScheduleValid", "Mars/Olympus",
                     id="the zone that does not exist"),
        pytest.param(found(State.LOADED, of(State.LOADED, scaled_by="keda"), {}), "ScalerConflict", "'keda'",
                     id="who else scales"),
        pytest.param(found(State.LOADED, of(State.LOADED, scaled_by="keda"), {}), "ScalerConflict",
                     "kubectl patch deployment base -n speech", id="the command that ends the conflict"),
        pytest.param(found(State.STARTING, observation_of(view_of(None), leaving=1), {"desiredState": "Loaded"}),
                     "Progressing", "waiting for the previous one to finish its work", id="whose place it takes"),
        pytest.param(found(State.LOADING, observation_of(view_of(State.LOADED), view_of(State.LOADING)), wanted=2),
                     "ModelLoaded", "1 of 2 pods", id="how many pods hold the model"),
    ],
)  # fmt: skip
def test_condition_message(seen: dict[str, Finding], kind: str, words: str) -> None:
    assert words in seen[kind].message
