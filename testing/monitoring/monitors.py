"""Scrape jobs as the Prometheus operator generates them from the chart's monitors, and discovery labels of targets.

See prometheus-operator/pkg/prometheus/promcfg.go and prometheus/discovery/kubernetes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from testing.chart.helm import GATEWAY, RELEASE, Helm, Rendered

Json = dict[str, Any]

_META = "__meta_kubernetes_"
_TARGET_LABELS = {"namespace": "namespace", "pod_name": "pod", "pod_container_name": "container"}


def rendered_monitors(folder: Path) -> Rendered:
    """Return the chart rendered with its monitors."""
    return Helm(folder).render(podMonitor={"enabled": True}, serviceMonitor={"enabled": True})


def jobs_of(chart: Rendered) -> dict[str, Json]:
    """Return the scrape jobs of the operator, the gateway and the models, without their service discovery."""
    operator, gateway = (chart.the("ServiceMonitor", name)["spec"] for name in (RELEASE, GATEWAY))
    pods = chart.the("PodMonitor")["spec"]
    return {
        "operator": _job(operator["selector"], *operator["endpoints"], found="service", port="endpoint_port"),
        "gateway": _job(gateway["selector"], *gateway["endpoints"], found="service", port="endpoint_port"),
        "models": _job(pods["selector"], *pods["podMetricsEndpoints"], found="pod", port="pod_container_port"),
    }


def _job(selector: Json, endpoint: Json, *, found: str, port: str) -> Json:
    wanted = {f"{found}_label_{_safe(name)}": value for name, value in selector["matchLabels"].items()}
    wanted[f"{port}_name"] = endpoint["port"]
    kept = [{"source_labels": [_META + name], "regex": value, "action": "keep"} for name, value in wanted.items()]
    named = [{"source_labels": [_META + name], "target_label": label} for name, label in _TARGET_LABELS.items()]
    given = [{_snake(name): value for name, value in one.items()} for one in endpoint.get("relabelings", ())]
    return {
        "metrics_path": endpoint["path"],
        "honor_labels": endpoint.get("honorLabels", False),
        "relabel_configs": [*kept, *named, {"target_label": "endpoint", "replacement": endpoint["port"]}, *given],
    }


def discovered_pod(pod: Json) -> Json:
    """Return the discovery labels of a pod with one port."""
    [container] = pod["spec"]["containers"]
    [port] = container["ports"]
    about = {"namespace": pod["metadata"]["namespace"], "pod_name": pod["metadata"]["name"]}
    about |= {"pod_container_name": container["name"], "pod_container_port_name": port["name"]}
    return _meta("pod", pod, about)


def discovered_service(service: Json, port: Json) -> Json:
    """Return the discovery labels of a pod behind a Service port."""
    about = {"namespace": service["metadata"]["namespace"], "pod_name": f"{service['metadata']['name']}-0"}
    return _meta("service", service, about | {"endpoint_port_name": port["name"]})


def _meta(kind: str, one: Json, about: Json) -> Json:
    labels = {f"{kind}_label_{_safe(name)}": value for name, value in one["metadata"]["labels"].items()}
    return {_META + name: value for name, value in (labels | about).items()}


def _safe(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _snake(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()
