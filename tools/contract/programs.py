"""The contract of both programs: settings, commands with options, and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import Enum
from typing import get_args

import typer
from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter
from pydantic_settings import BaseSettings
from typer.core import TyperArgument, TyperGroup, TyperOption

from tools.contract.schemas import compact, shape
from whisper_inference.fleet.metrics import GatewayMetrics
from whisper_inference.main import app as server_app
from whisper_inference.service.metrics import Metrics as ServerMetrics
from whisper_inference.settings import PREFIX as SERVER_PREFIX
from whisper_inference.settings import Settings as ServerSettings
from whisper_operator.main import app as operator_app
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.reconcile.observation import Observation
from whisper_operator.runtime.metrics import Metrics as OperatorMetrics
from whisper_operator.settings import PREFIX as OPERATOR_PREFIX
from whisper_operator.settings import Settings as OperatorSettings
from whispermodel.key import Key
from whispermodel.spec import Spec
from whispermodel.status import Status

PROGRAMS = {"whisper-inference": server_app, "whisper-operator": operator_app}
_SUFFIXES = {"counter": "_total", "info": "_info"}


def settings() -> Iterator[str]:
    """Yield a line for each setting with its type and default."""
    yield from _settings(ServerSettings, SERVER_PREFIX)
    yield from _settings(OperatorSettings, OPERATOR_PREFIX)


def _settings(kind: type[BaseSettings], prefix: str) -> Iterator[str]:
    schema = kind.model_json_schema()
    # The only nested object is part of the resource, whose fields are in the CRD's section.
    definitions = {name: {**one, "properties": {}} for name, one in schema["$defs"].items()}
    for name, field in kind.model_fields.items():
        described = {word: value for word, value in schema["properties"][name].items() if word != "default"}
        default = field.get_default()
        shown = "computed" if field.default_factory else _json(default)
        yield f"{prefix}{name.upper()}: {shape(described, definitions)} = {shown}"


def _json(value: object) -> str:
    return compact(TypeAdapter(object).dump_python(value, mode="json", exclude_unset=True))


def commands() -> Iterator[str]:
    """Yield a line for each command, option and argument."""
    for program, app in PROGRAMS.items():
        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        yield from _parameters(program, group.params)
        for name, command in group.commands.items():
            yield f"{program} {name}"
            yield from _parameters(f"{program} {name}", command.params)


def _parameters(command: str, parameters: Iterable[object]) -> Iterator[str]:
    for parameter in parameters:
        assert isinstance(parameter, (TyperOption, TyperArgument))
        annotation = parameter.type_descriptor.annotation
        names = " ".join([*parameter.opts, *parameter.secondary_opts])
        many = " several" if parameter.multiple or parameter.nargs == -1 else ""
        required = " required" if parameter.required else f" = {_json(parameter.default)}"
        yield f"{command} {names}: {_words(annotation)}{_bounds(parameter)}{many}{required}"


def _words(annotation: type) -> str:
    [kind, *_] = get_args(annotation) or (annotation,)
    if issubclass(kind, Enum):
        return " | ".join(compact(member.value) for member in kind)
    return kind.__name__


def _bounds(parameter: TyperOption | TyperArgument) -> str:
    bounds = {"minimum": parameter.min, "maximum": parameter.max}
    return "".join(f" {name}={value}" for name, value in bounds.items() if value is not None)


def metrics() -> Iterator[str]:
    """Yield a line for each metric of both programs with its type and labels."""
    # Private, but the only way to get the labels of a family without samples.
    yield from _families(server_metrics()._registry)
    yield from _families(gateway_registry())
    model_metrics = ModelMetrics()
    model_metrics.record(Key("speech", "base"), _SPEC, Observation(datetime(2026, 1, 1, tzinfo=UTC)), after=Status())
    yield from _families(OperatorMetrics(model_metrics=model_metrics, queue_depth=float).registry)


_SPEC = Spec.model_validate({"model": {"size": "base"}})


def server_metrics() -> ServerMetrics:
    """Return the server's metrics with placeholder values."""
    return ServerMetrics(version="0", model="base", engine="openai-whisper")


def gateway_registry() -> CollectorRegistry:
    """Return the registry of the metrics that only a gateway has."""
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    return registry


def _families(registry: CollectorRegistry) -> Iterator[str]:
    for collector in registry._collector_to_names:
        for family in collector.collect():
            declared = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            seen = (label for sample in family.samples for label in sample.labels)
            labels = sorted({*declared, *seen} - {"le"})
            yield f"{family.name}{_SUFFIXES.get(family.type, '')} {family.type}: {', '.join(labels)}".rstrip(": ")
