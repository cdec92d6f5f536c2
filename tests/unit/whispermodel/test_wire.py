"""The JSON between servers and their clients is read tolerantly, and its schema promises plain types."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from testing import pod_answers
from testing.imports import imported_with
from whispermodel.catalog import Device
from whispermodel.states import State
from whispermodel.wire import LoadAnswer, Manual, ModelStatus, UnloadAnswer

LAST_LOAD = {"device": "cpu", "load_seconds": 1.0, "phases": {}, "trigger": "demand", "seconds_ago": 2.0}
FREED = {"ram_mb": 1.0, "vram_mb": 0.0}


def read(**fields: Any) -> ModelStatus:
    return ModelStatus.model_validate_json(json.dumps(pod_answers.status(**fields)))


def test_what_a_server_writes_is_read_back() -> None:
    written = read(
        state="Loaded",
        device="cuda",
        depth="warm",
        manual={"state": "Unloaded", "at": "2026-03-02T12:00:00Z"},
        last_load=LAST_LOAD,
    )
    assert ModelStatus.model_validate_json(written.model_dump_json()) == written
    assert (written.state, written.device) == (State.LOADED, Device.CUDA)


def test_nullable_fields_that_a_server_does_not_send_are_null() -> None:
    status = read()
    assert (status.device, status.depth, status.manual, status.ready_in_seconds) == (None, None, None, None)
    assert (status.last_load, status.last_unload) == (None, None)


def test_fields_that_a_client_does_not_know_are_ignored() -> None:
    assert "mood" not in read(mood="good").model_dump()


@pytest.mark.parametrize("name", ["state", "idle_seconds", "in_flight", "queued"])
def test_a_field_that_every_server_sends_is_required(name: str) -> None:
    said = {key: value for key, value in pod_answers.status().items() if key != name}
    with pytest.raises(ValidationError, match=name):
        ModelStatus.model_validate(said)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"device": "abacus"}, id="a device that nobody knows"),
        pytest.param({"in_flight": -1}, id="a negative count"),
        pytest.param({"idle_seconds": -0.1}, id="a negative age"),
        pytest.param({"idle_seconds": math.inf}, id="an infinite age"),
        pytest.param({"work_began_seconds": math.nan}, id="an age that is not a number"),
        pytest.param({"last_load": {**LAST_LOAD, "load_seconds": 1e10}}, id="a load of centuries"),
        pytest.param({"last_load": {**LAST_LOAD, "trigger": "x" * 65}}, id="a trigger longer than any"),
        pytest.param({"manual": {"state": "Zero", "at": "2026-03-02T12:00:00Z"}}, id="neither a load nor an unload"),
        pytest.param({"manual": {"state": "Loaded", "at": "9999-12-31T23:59:59Z"}}, id="a year outside every calendar"),
    ],
)
def test_values_that_nothing_can_be_planned_with_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**fields)


@pytest.mark.parametrize("amount", [-1.0, math.nan, 1e10])
def test_amounts_of_loads_and_unloads_are_bounded_as_well(amount: float) -> None:
    with pytest.raises(ValidationError):
        LoadAnswer.model_validate(pod_answers.loaded(load_seconds=amount))
    with pytest.raises(ValidationError):
        UnloadAnswer.model_validate(pod_answers.unloaded(memory_freed={**FREED, "ram_mb": amount}))


def test_the_schema_promises_plain_types() -> None:
    schema = ModelStatus.model_json_schema(mode="serialization")
    words = json.dumps(schema)
    assert [word for word in ("minimum", "maximum", "maxLength") if word in words] == []
    assert {"device", "depth", "manual", "last_load", "last_unload"} <= set(schema["required"])
    assert Manual.model_json_schema()["properties"]["state"]["enum"] == ["Loaded", "Unloaded"]


def test_a_server_that_imports_it_does_not_pay_for_the_planner() -> None:
    imported = imported_with("whispermodel.wire", "whispermodel.planning.modes")
    assert {"cronsim", "whispermodel.spec", "whispermodel.planning.schedule"} & imported == set()


@pytest.mark.parametrize(
    ("answer", "essential"),
    [
        pytest.param(ModelStatus, {"state": "Loaded", "idle_seconds": 1.0, "in_flight": 0, "queued": 0}, id="status"),
        pytest.param(LoadAnswer, {"device": "cpu", "load_seconds": 1.0}, id="load"),
        pytest.param(UnloadAnswer, {"device_was": "cpu", "memory_freed": FREED}, id="unload"),
    ],
)
def test_servers_of_other_releases_may_leave_out_what_the_operator_does_not_use(
    answer: type[ModelStatus | LoadAnswer | UnloadAnswer], essential: dict[str, Any]
) -> None:
    read_back = answer.model_validate(essential).model_dump()
    assert {name: read_back[name] for name in essential} == essential
