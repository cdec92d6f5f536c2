"""Story 6: the status explains within seconds why a pod cannot start or load; after a fix, the model recovers."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.model import FASTER, Model

SECONDS = 15
"""Timeout from the event until the status reports it."""


@pytest.mark.parametrize(
    ("fault", "fixed", "reason"),
    [
        pytest.param(
            {"pod": {"image": "registry.invalid/whisper-inference:none"}},
            {"pod": None},
            "ImagePull",
            id="image does not exist",
        ),
        pytest.param(
            {"pod": {"nodeSelector": {"accelerator": "none-has-it"}}},
            {"pod": None},
            "Unschedulable",
            id="no matching node",
        ),
        pytest.param(
            {"pod": {"resources": {"limits": {"memory": "24Mi"}}}},
            {"pod": None},
            "OutOfMemory",
            id="memory limit too low for the server",
        ),
        pytest.param(
            {"pod": {"resources": {"limits": {"memory": "120Mi"}}}},
            {"pod": None},
            "LoadFailed",
            id="memory limit too low for the model",
        ),
        pytest.param(
            {"model": {**FASTER, "source": {"path": "/weights/none"}}},
            {"model": FASTER},
            "LoadFailed",
            id="weights missing",
        ),
    ],
)
def test_the_status_reports_the_cause_and_the_model_recovers(
    model: Model, fault: dict[str, Any], fixed: dict[str, Any], reason: str
) -> None:
    model.apply(**fault, desiredState="Loaded")
    degraded = model.wait_for_condition("Degraded", reason=reason, seconds=SECONDS)
    assert degraded["status"] == "True"
    assert degraded["message"]
    assert model.condition("Ready")["status"] == "False"
    assert model.status["lastFailure"]["reason"] == reason
    model.patch(**fixed)
    model.wait_for(state="Loaded")
    assert model.condition("Degraded")["status"] == "False"
