"""The offline check and the API server agree, also on mutated manifests."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from testing.api_server import ApiServer
from testing.manifests import EXAMPLES, STATUSES, Case, cases, example, manifest
from testing.paths import ROOT
from whisper_operator.offline.validation import problems

Json = dict[str, Any]
Way = tuple[str | int, ...]

MODELS = "/apis/audio-transcriber.io/v1alpha1/namespaces/default/whispermodels"
METADATA = yaml.safe_load((ROOT / "tests" / "data" / "manifests.yaml").read_text(encoding="utf-8"))["metadata"]
ONLY_THE_OPERATOR = ("spec.schedule: there is no time zone", "spec.schedule: the entry")
NUMBERS = [0, 1, -1, 1.5, 2**63 - 1, True, False]
DURATIONS = ["0s", "15m", "1h1h1h1h", "1h1h1h1h1h", "99999h99999h", "100000h", "5us", "-1s", " 15m", "15m\n"]
TIMES = [
    "2026-12-24T00:00:00Z",
    "2026-12-24t00:00:00z",
    "2026-12-24 00:00:00Z",
    "2026-04-31T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "2026-12-24T23:59:60Z",
    "2026-12-24T00:00:00.123456789+14:00",
]
BYTES = ["10Gi", "1e3", "1.0000000001Gi", "1Ei", "999999999999999999Ti"]
CRONS = ["* * * * *", "0 20 * * *\n", "\t0 20 * * *", "0 20\u00a0* * *", "0\u200320 * * *", "é é é é é", "0 0 31 2 *"]
ZONES = ["UTC", "../etc/passwd", "Local", "Europe/Berlin ", "GMT+3"]
TEXTS = ["", "a", "A", "x" * 63, "x" * 64, "x" * 300, "ü" * 150, "a\nb", "a-", "a.b", "a..b", "Auto", "auto", "Zero"]
SHAPES = [None, [], {}, [1], [None], {"a": 1}, {"name": "x"}, [{"name": "x"}], {"low": 1, "central": 2, "high": 3}]
VALUES = [*NUMBERS, *DURATIONS, *TIMES, *BYTES, *CRONS, *ZONES, *TEXTS, *SHAPES]


def judged(api: ApiServer, manifest: Json) -> httpx.Response:
    """Return the API server's verdict on a dry run, as kubectl requests it."""
    return api.client().post(MODELS, params={"fieldValidation": "Strict", "dryRun": "All"}, json=manifest)


def places(value: object, way: Way = ()) -> Iterator[Way]:
    """Yield the path to everything in a value."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in steps:
        yield (*way, step)
        yield from places(child, (*way, step))


def mutated(manifest: Json, chance: random.Random) -> Json:
    """Return a manifest in which one part is missing, duplicated, unknown or replaced."""
    result = copy.deepcopy(manifest)
    *way, last = chance.choice(list(places(result["spec"])))
    holder: Any = result["spec"]
    for step in way:
        holder = holder[step]
    match chance.choice(["missing", "more", "replaced", "replaced", "replaced"]):
        case "missing":
            del holder[last]
        case "more" if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[-1]))
        case "more":
            holder["more"] = 1
        case _:
            holder[last] = copy.deepcopy(chance.choice(VALUES))
    return result


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in cases() if case.says])
def test_offline_check_agrees_with_the_api_server(api_server: ApiServer, case: Case) -> None:
    said = judged(api_server, case.manifest).json()["message"]
    words = [problem.split(": ", 1)[1] if ": " in problem else problem for problem in problems(case.manifest)]
    assert words
    assert [sentence for sentence in words if sentence not in said] == [], said


@pytest.mark.parametrize("row", [pytest.param(row, id=row["case"]) for row in METADATA])
def test_both_agree_on_metadata(api_server: ApiServer, row: Json) -> None:
    written = manifest({})
    written["metadata"] |= row["metadata"]
    answer = judged(api_server, written)
    assert answer.is_success == (problems(written) == []), answer.text
    assert row.get("says", "") in answer.json().get("message", "")


@pytest.mark.parametrize(("status", "found"), STATUSES)
def test_both_agree_on_a_status(api_server: ApiServer, status: object, found: list[str]) -> None:
    answer = judged(api_server, manifest({}) | {"status": status})
    assert answer.is_success == (found == [])
    assert [words for words in found if words not in answer.json()["message"]] == []


@pytest.mark.parametrize("seed", range(5))
def test_both_agree_on_mutated_manifests(api_server: ApiServer, seed: int) -> None:
    chance = random.Random(seed)
    originals = [case.manifest for case in cases() if case.manifest["spec"]] + [example(path) for path in EXAMPLES]
    disagreements: list[str] = []
    for _ in range(100):
        manifest = mutated(chance.choice(originals), chance)
        answer = judged(api_server, manifest)
        found = [problem for problem in problems(manifest) if not problem.startswith(ONLY_THE_OPERATOR)]
        if answer.is_success == bool(found):
            disagreements.append(f"{json.dumps(manifest['spec'])}: {answer.text[:500]}, and offline {found}")
    assert disagreements == []
