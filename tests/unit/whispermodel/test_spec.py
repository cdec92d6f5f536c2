"""The typed spec: its defaults, what it refuses and with which words, and how it is written again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from testing.planner_cases import EVENING, MORNING, exception, spec_of, utc
from whispermodel.catalog import Engine
from whispermodel.spec import Cache, DemandPolicy, Idle, Override, Pod, Queue, Schedule, Spec
from whispermodel.states import Mode, State

BASE: dict[str, object] = {"size": "base"}
FULL: dict[str, object] = {
    "model": {
        "size": "large-v3",
        "engine": "faster-whisper",
        "device": "cuda",
        "computeType": "int8",
        "source": {"path": "/models/large-v3", "sha256": "0123456789abcdef" * 4},
    },
    "desiredState": "Loaded",
    "demandPolicy": "Refuse",
    "schedule": {
        "timeZone": "America/Sao_Paulo",
        "entries": [EVENING, {**MORNING, "cron": "0 7 * * 1-5"}],
        "exceptions": [
            {
                "name": "christmas",
                "from": "2026-12-24T00:00:00-03:00",
                "to": "2026-12-27T00:00:00-03:00",
                "state": "Zero",
            }
        ],
        "leadTime": "1m30s",
    },
    "idle": {"unloadAfter": "20m", "scaleToZeroAfter": "1h30m"},
    "override": {"state": "Loaded", "until": "2026-11-27T23:00:00-03:00", "reason": "release test"},
    "suspend": True,
    "replicas": 2,
    "aliases": ["openai/whisper-large-v3", "base:latest"],
    "queue": {"maxWaiting": 5, "maxAudioBytes": "1Gi", "maxWait": "2m"},
    "cache": {"persistentVolumeClaim": "whisper-weights"},
    "pod": {
        "image": "registry.example/whisper:1",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "nodeSelector": {"gpu": "t4"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "serviceAccountName": "whisper",
        "terminationGracePeriodSeconds": 600,
        "env": [{"name": "A", "value": "b"}],
        "volumes": [{"name": "models", "emptyDir": {}}],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
        "labels": {"team": "speech"},
        "annotations": {"owner": "speech"},
    },
    "energy": {
        "gpuModel": "T4",
        "loadedIdleWatts": {"low": 20.0, "central": 25.0, "high": 30.0},
        "unloadedWatts": {"low": 8.0, "central": 10.0, "high": 12.0},
    },
}


def test_the_smallest_useful_spec_has_the_defaults_of_the_contract() -> None:
    spec = spec_of()
    assert spec.model.engine is Engine.OPENAI_WHISPER
    assert (spec.model.device, spec.model.compute_type, spec.model.source) == (None, None, None)
    assert (spec.desired_state, spec.demand_policy) == (Mode.AUTO, DemandPolicy.WAKE)
    assert spec.schedule == Schedule(time_zone="Etc/UTC", entries=(), exceptions=(), lead_time=timedelta())
    assert spec.idle == Idle(unload_after=timedelta(minutes=15), scale_to_zero_after=None)
    assert (spec.override, spec.suspend, spec.replicas, spec.aliases) == (None, False, 1, ())
    assert spec.queue == Queue(max_waiting=100, max_audio_bytes=10 * 2**30, max_wait=timedelta(minutes=10))
    assert (spec.cache, spec.pod, spec.energy) == (None, Pod(), None)


def test_fields_are_read_as_a_manifest_names_them() -> None:
    spec = Spec.model_validate(FULL)
    christmas = spec.schedule.exceptions[0]
    assert (christmas.start, christmas.end) == (utc("2026-12-24T03:00"), utc("2026-12-27T03:00"))
    assert spec.schedule.lead_time == timedelta(seconds=90)
    assert spec.idle.scale_to_zero_after == timedelta(minutes=90)
    assert spec.override == Override(state=Mode.LOADED, until=utc("2026-11-28T02:00"), reason="release test")
    assert spec.queue.max_audio_bytes == 2**30
    assert spec.cache == Cache(persistent_volume_claim="whisper-weights")
    assert spec.pod.termination_grace_period_seconds == 600


@pytest.mark.parametrize(
    "written", [pytest.param(FULL, id="every field"), pytest.param({"model": BASE}, id="the smallest")]
)
def test_what_was_read_is_written_as_it_was(written: dict[str, object]) -> None:
    spec = Spec.model_validate(written)
    assert spec.model_dump(mode="json", exclude_unset=True) == written
    assert Spec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_lead_time_may_be_auto() -> None:
    spec = spec_of(schedule={"leadTime": "Auto"})
    assert spec.schedule.lead_time == "Auto"
    assert spec.model_dump(mode="json", exclude_unset=True)["schedule"] == {"leadTime": "Auto"}


@pytest.mark.parametrize("size", ["large", "turbo", "tiny.en", "large-v3-turbo"])
def test_every_name_of_a_model_is_taken(size: str) -> None:
    assert Spec.model_validate({"model": {"size": size}}).model.size == size


def test_modes_and_states_are_ordered_by_the_memory_they_hold() -> None:
    assert sorted(Mode, key=lambda mode: mode.rank) == [Mode.ZERO, Mode.UNLOADED, Mode.AUTO, Mode.LOADED]
    assert sorted([State.LOADED, State.ZERO, State.UNLOADED], key=lambda state: state.rank) == [
        *(State.ZERO, State.UNLOADED, State.LOADED)
    ]


def test_periods_that_touch_do_not_overlap() -> None:
    first = exception("a", "2026-12-24T00:00:00Z", "2026-12-25T00:00:00Z", state=Mode.ZERO)
    second = exception("b", "2026-12-25T00:00:00Z", "2026-12-26T00:00:00Z", state=Mode.LOADED)
    assert len(spec_of(schedule={"exceptions": [second, first]}).schedule.exceptions) == 2


def entry(**changed: object) -> dict[str, object]:
    return {"schedule": {"entries": [MORNING | changed]}}


def period(start: str, end: str) -> dict[str, object]:
    return {"schedule": {"exceptions": [exception("fair", start, end, state=Mode.ZERO)]}}


OVERLAPPING = {
    "schedule": {
        "exceptions": [
            exception("late", "2026-12-25T00:00:00Z", "2026-12-27T00:00:00Z", state=Mode.ZERO),
            exception("early", "2026-12-24T00:00:00Z", "2026-12-25T00:00:01Z", state=Mode.ZERO),
        ]
    }
}
FIVE_FIELDS = "write five fields: minute hour day-of-month month day-of-week, such as '0 20 * * 1-5'"
DURATION = "is not a duration: write whole numbers with h, m, s or ms, such as 1h30m or 500ms"


@pytest.mark.parametrize(
    ("parts", "place", "words"),
    [
        pytest.param({"model": {}}, "model.size", "Field required", id="no size"),
        pytest.param(
            {"model": {"size": "huge"}}, "model", "there is no Whisper model 'huge'; choose one of", id="size"
        ),
        pytest.param({"model": BASE | {"engine": "whisper.cpp"}}, "model.engine", "'openai-whisper' or", id="engine"),
        pytest.param(
            {"model": {"size": "distil-large-v3"}},
            "model",
            "the model distil-large-v3 runs only with the engine faster-whisper, not with openai-whisper",
            id="a distilled model without faster-whisper",
        ),
        pytest.param(
            {"model": BASE | {"computeType": "int8"}},
            "model",
            "the compute type int8 runs only with the engine faster-whisper, not with openai-whisper",
            id="int8 without faster-whisper",
        ),
        pytest.param(
            {"model": BASE | {"computeType": "float16", "device": "cpu"}},
            "model",
            "the compute type float16 needs the device cuda; on the cpu leave it out, or use float32",
            id="float16 on the cpu",
        ),
        pytest.param({"model": BASE | {"source": {"path": "x"}}}, "model.source.path", "match pattern", id="path"),
        pytest.param(
            {"model": BASE | {"source": {"path": "/x", "sha256": "0A"}}}, "model.source.sha256", "pattern", id="sha256"
        ),
        pytest.param({"desiredState": "On"}, "desiredState", "'Zero', 'Unloaded', 'Auto' or 'Loaded'", id="mode"),
        pytest.param({"demandPolicy": "Maybe"}, "demandPolicy", "'Wake' or 'Refuse'", id="policy"),
        pytest.param({"wishes": 1}, "wishes", "Extra inputs are not permitted", id="an unknown field"),
        pytest.param(entry(cron="0 0 7 * * *"), "schedule.entries.0.cron", FIVE_FIELDS, id="six cron fields"),
        pytest.param(entry(cron="0 7 * *"), "schedule.entries.0.cron", FIVE_FIELDS, id="four cron fields"),
        pytest.param(entry(cron="@daily"), "schedule.entries.0.cron", FIVE_FIELDS, id="a cron nickname"),
        pytest.param(entry(cron="0 7 * * " + "1," * 200), "schedule.entries.0.cron", "at most 256", id="a long cron"),
        pytest.param(entry(name="At dawn"), "schedule.entries.0.name", "match pattern", id="an entry's name"),
        pytest.param(entry(name="a" * 64), "schedule.entries.0.name", "at most 63", id="a long name"),
        pytest.param(
            {"schedule": {"entries": [MORNING, MORNING]}},
            "schedule",
            "duplicate entry names: morning",
            id="twins",
        ),
        pytest.param({"schedule": {"entries": [MORNING] * 33}}, "schedule.entries", "at most 32", id="many entries"),
        pytest.param(
            period("2026-12-24T00:00:00", "2026-12-25T00:00:00Z"),
            "schedule.exceptions.0.from",
            "timezone info",
            id="a period without an offset",
        ),
        pytest.param(
            period("2026-12-24T00:00:00Z", "2026-12-24T01:00:00+01:00"),
            "schedule.exceptions.0",
            "the exception 'fair' must end (to) after it starts (from)",
            id="an empty period",
        ),
        pytest.param(
            OVERLAPPING,
            "schedule",
            "the exceptions 'early' and 'late' must not overlap",
            id="overlapping periods",
        ),
        pytest.param({"schedule": {"leadTime": "soon"}}, "schedule.leadTime", f"'soon' {DURATION}", id="lead time"),
        pytest.param({"schedule": {"timeZone": ""}}, "schedule.timeZone", "at least 1 character", id="an empty zone"),
        pytest.param({"aliases": ["a b"]}, "aliases.0", "match pattern", id="alias"),
        pytest.param({"aliases": ["x" * 129]}, "aliases.0", "at most 128", id="a long alias"),
        pytest.param({"aliases": ["a", "b", "a"]}, "aliases", "duplicate aliases: a", id="the same alias twice"),
        pytest.param({"aliases": ["whisper-1"]}, "aliases", "other than whisper-1", id="the only model as an alias"),
        pytest.param({"aliases": [f"a{n}" for n in range(17)]}, "aliases", "at most 16", id="many aliases"),
        pytest.param({"idle": {"unloadAfter": "15"}}, "idle.unloadAfter", f"'15' {DURATION}", id="duration"),
        pytest.param(
            {"idle": {"unloadAfter": "1h", "scaleToZeroAfter": "59m"}},
            "idle",
            "scaleToZeroAfter must not be shorter than unloadAfter: a pod outlives its model",
            id="zero before unloaded",
        ),
        pytest.param(
            {"idle": {"scaleToZeroAfter": "14m"}}, "idle", "must not be shorter", id="zero before the default unload"
        ),
        pytest.param({"override": {"state": "Zero"}}, "override.until", "Field required", id="an endless override"),
        pytest.param(
            {"override": {"state": "Zero", "until": "2026-11-27T23:00:00"}},
            "override.until",
            "timezone info",
            id="an override without an offset",
        ),
        pytest.param({"replicas": 0}, "replicas", "greater than or equal to 1", id="no replicas"),
        pytest.param({"replicas": 101}, "replicas", "less than or equal to 100", id="many replicas"),
        pytest.param({"queue": {"maxWaiting": -1}}, "queue.maxWaiting", "greater than or equal to 0", id="waiting"),
        pytest.param(
            {"queue": {"maxAudioBytes": "much"}}, "queue.maxAudioBytes", "'much' is not a number of bytes", id="bytes"
        ),
        pytest.param(
            {"energy": {"loadedIdleWatts": {"low": 3, "central": 2, "high": 4}}},
            "energy.loadedIdleWatts",
            "low, central and high must be in ascending order",
            id="watts",
        ),
        pytest.param({"pod": {"imagePullPolicy": "Now"}}, "pod.imagePullPolicy", "'Always', 'IfNotPresent'", id="pull"),
    ],
)
def test_refused(parts: dict[str, object], place: str, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        spec_of(**parts)
    told = [(".".join(str(part) for part in error["loc"]), error["msg"]) for error in refused.value.errors()]
    assert any(where.startswith(place) and words in message for where, message in told), told


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"idle": {"unloadAfter": 900}}, "a duration needs a unit", id="a bare number of seconds"),
        pytest.param(
            {"override": {"state": "Zero", "until": 1766534400}}, "write a time with its offset", id="an epoch"
        ),
        pytest.param({"replicas": "2"}, "valid integer", id="a number as text"),
        pytest.param({"suspend": "yes"}, "valid boolean", id="a truth as text"),
    ],
)
def test_what_the_schema_would_refuse_is_refused_without_it_too(spec: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Spec.model_validate({"model": {"size": "base"}, **spec})
