"""Story 6: a pod that cannot start or load says why within seconds, and recovers when that is mended."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.model import FASTER, Model

SECONDS = 15
"""From the event to the status that tells of it."""


@pytest.mark.parametrize(
    ("fault", "mended", "reason"),
    [
        pytest.param(
            {"pod": {"image": "registry.invalid/whisper-inference:none"}},
            {"pod": None},
            "ImagePull",
            id="an image that is nowhere",
        ),
        pytest.param(
            {"pod": {"nodeSelector": {"accelerator": "none-has-it"}}}, {"pod": None}, "Unschedulable", id="no such node"
        ),
        pytest.param(
            {"pod": {"resources": {"limits": {"memory": "24Mi"}}}},
            {"pod": None},
            "OutOfMemory",
            id="less memory than the server needs",
        ),
        pytest.param(
            {"pod": {"resources": {"limits": {"memory": "120Mi"}}}},
            {"pod": None},
            "LoadFailed",
            id="less memory than the model needs",
        ),
        pytest.param(
            {"model": {**FASTER, "source": {"path": "/weights/none"}}},
            {"model": FASTER},
            "LoadFailed",
            id="weights that are not there",
        ),
    ],
)
def test_the_status_tells_the_cause_and_the_model_recovers_alone(
    model: Model, fault: dict[str, Any], mended: dict[str, Any], reason: str
) -> None:
    model.apply(**fault, desiredState="Loaded")
    told = model.wait_for_condition("Degraded", reason=reason, seconds=SECONDS)
    assert told["status"] == "True"
    assert told["message"]
    assert model.condition("Ready")["status"] == "False"
    assert model.status["lastFailure"]["reason"] == reason
    model.patch(**mended)
    model.wait_for(state="Loaded")
    assert model.condition("Degraded")["status"] == "False"
