"""The contract in a cluster: the CRD, the chart's values, and the names of objects, labels and annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml

from tools.contract import ROOT
from tools.contract.schemas import Json, compact, described, resolved
from whisper_cluster import names as cluster_names
from whisper_operator.resources.deployment import IMAGE_ANNOTATION, POD_DEFAULTS_ANNOTATION, Defaults, deployment
from whisper_operator.resources.identity import Identity
from whisper_operator.resources.keys_secret import keys_secret
from whisper_operator.resources.network_policy import network_policy
from whisper_operator.resources.service import service
from whispermodel.spec import Pod, Spec

CRD = ROOT / "crds" / "whispermodels.yaml"
CHART = ROOT / "deploy" / "helm" / "whisper-operator"
_LABEL = re.compile(r"[a-z0-9.-]+\.[a-z]+/(?!v\d)[A-Za-z0-9._-]+(?=[\":])")
"""A label or annotation in a template, as a key or in quotes."""


def crd() -> Iterator[str]:
    """Yield a line for each name, printer column, property and validation rule of the CRD."""
    spec: Json = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]
    yield f"group {spec['group']} {spec['scope']} {compact(spec['names'])}"
    for version in spec["versions"]:
        flags = {word: version[word] for word in ("served", "storage", "subresources")}
        yield f"version {version['name']} {compact(flags)}"
        for number, column in enumerate(version["additionalPrinterColumns"]):
            shown = {word: value for word, value in column.items() if word not in ("name", "description")}
            yield f"column {number} {column['name']} {compact(shown)}"
        yield from described(version["name"], version["schema"]["openAPIV3Schema"], {})


def chart() -> Iterator[str]:
    """Yield a line for each value of the chart with its type and default."""
    schema: Json = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values: Json = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    definitions: Json = schema.pop("$defs")
    yield from described("values", _with_defaults(schema, values, definitions), definitions)


def _with_defaults(schema: Json, values: object, definitions: Json) -> Json:
    """Return the schema with the default of each value that is not a group of values."""
    schema = resolved(schema, definitions)
    if "properties" not in schema or not isinstance(values, dict):
        return {**schema, "default": values}
    given = {
        name: _with_defaults(child, values[name], definitions)
        for name, child in schema["properties"].items()
        if name in values
    }
    return {**schema, "properties": {**schema["properties"], **given}}


def names() -> Iterator[str]:
    """Yield a line for each label, annotation and fixed name of objects that the operator and the chart create."""
    identity = Identity("speech", "base", "0")
    spec = Spec.model_validate({"model": {"size": "base"}})
    defaults = Defaults("image", pod=Pod.model_validate({"nodeSelector": {"gpu": "yes"}}))
    made: dict[str, Json] = {
        "Deployment": deployment(identity, spec, replicas=1, defaults=defaults),
        "Service": service(identity),
        "NetworkPolicy": network_policy(identity, []),
        "Secret": keys_secret("speech", operator="", client=""),
    }
    for kind, one in made.items():
        yield from (f"{kind} {line}" for line in _names_in(one))
    yield from (f"Secret entry {entry}" for entry in made["Secret"]["data"])
    fixed = [value for name, value in vars(cluster_names).items() if name.isupper()]
    fixed += [IMAGE_ANNOTATION, POD_DEFAULTS_ANNOTATION]
    yield from (f"fixed {value}" for value in fixed if isinstance(value, str | int))
    for template in sorted(CHART.glob("templates/**/*")):
        if template.is_file():
            yield from (f"chart {name}" for name in _LABEL.findall(template.read_text(encoding="utf-8")))


def _names_in(value: object) -> Iterator[str]:
    match value:
        case dict():
            for name, inner in value.items():
                if name in ("labels", "annotations", "matchLabels"):
                    yield from (f"{name} {one}" for one in inner)
                yield from _names_in(inner)
        case list():
            for inner in value:
                yield from _names_in(inner)
        case _:
            pass
