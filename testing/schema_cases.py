"""schemathesis over an /openapi.json: no request makes a server fail, and answers are what the schema says."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

SETTINGS = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def check_every_operation(
    url: str, subtests: pytest.Subtests, *, mode: GenerationMode, headers: dict[str, str] | None = None
) -> None:
    """Send what the schema allows, or what it does not, to every route but the streams of events."""

    def answers_as_documented(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, headers=headers, timeout=60)

    # schemathesis' own pytest plugin cannot collect under pytest 9. A stream of events ends with its job, so that
    # route is driven by the tests of jobs.
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers or {}).exclude(path_regex="/events$")
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or [*operation.iter_parameters()]):
            continue  # There is nothing to get wrong.
        with subtests.test(operation.label):
            conforms = given(case=operation.as_strategy(generation_mode=mode))(answers_as_documented)
            SETTINGS(conforms)()
