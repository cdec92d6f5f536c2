"""Sets of values that together cover every option of the chart."""

from __future__ import annotations

from typing import Any

SHA = f"sha256:{'ab' * 32}"
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "speech"}}}
MODEL = {"name": "dictation", "spec": {"model": {"size": "base"}}}

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "global values of a parent chart": {"global": {"imageRegistry": "registry.example.com"}},
    "name": {"nameOverride": "scribe"},
    "full name": {"fullnameOverride": "scribe"},
    "common labels": {"commonLabels": {"team": "speech", "app.kubernetes.io/part-of": "dictation"}},
    "three replicas": {"replicas": 3},
    "image by tag": {"image": {"repository": "registry.example.com/operator", "tag": "1.2", "pullPolicy": "Always"}},
    "image by digest": {"image": {"digest": SHA}, "imagePullSecrets": [{"name": "registry"}]},
    "models' image by tag": {"inference": {"image": {"repository": "a/b", "tag": "c", "pullPolicy": "Never"}}},
    "models' image by digest": {"inference": {"image": {"digest": SHA}}},
    "pod defaults for models": {
        "inference": {
            "imagePullSecrets": [{"name": "registry"}],
            "resources": {"requests": {"memory": "1Gi"}},
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        }
    },
    "namespaces": {"namespaces": ["speech", "whisper-system"]},
    "other settings": {"workers": 8, "resyncSeconds": 0.5 + 60, "leaseName": "scribe"},
    "other logs": {"log": {"format": "console", "level": "debug"}},
    "extra environment": {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com"}]},
    "no CRD": {"crds": {"enabled": False}},
    "CRD not kept": {"crds": {"keep": False}},
    "no keys": {"keys": {"create": False}},
    "models": {"models": [MODEL, MODEL | {"namespace": "speech", "labels": {"a": "b"}, "annotations": {"c": "d"}}]},
    "service account with annotations": {"serviceAccount": {"name": "scribe", "annotations": {"a": "b"}}},
    "existing service account": {"serviceAccount": {"create": False, "name": "scribe"}},
    "no service account": {"serviceAccount": {"create": False}},
    "no roles": {"rbac": {"create": False}},
    "no aggregation": {"rbac": {"aggregate": False}},
    "no network policies": {"networkPolicy": {"enabled": False}},
    "clients": {"networkPolicy": {"allowFrom": [PEER, {"ipBlock": {"cidr": "10.0.0.0/8"}}], "prometheus": [PEER]}},
    "no Prometheus": {"networkPolicy": {"prometheus": []}},
    "ServiceMonitor": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"}},
    "PodMonitor": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "1m30s"}},
    "PodMonitor with namespaces": {"podMonitor": {"enabled": True}, "namespaces": ["speech"]},
    "alerts": {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}},
    "alerts with runbooks": {"prometheusRule": {"enabled": True, "runbookUrl": "https://example.com/runbooks/"}},
    "dashboards": {"dashboards": {"enabled": True}},
    "dashboards elsewhere": {
        "dashboards": {
            "enabled": True,
            "namespace": "speech",
            "labels": {"grafana_dashboard": "yes"},
            "annotations": {"grafana_folder": "Speech"},
        }
    },
    "no disruption budget": {"podDisruptionBudget": {"enabled": False}},
    "custom spread": {
        "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
            {
                "maxSkew": 1,
                "topologyKey": "room",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"a": "b"}},
            },
        ]
    },
    "resources": {"resources": {"limits": {"memory": "1Gi", "cpu": 2}}},
    "pod labels and annotations": {
        "podLabels": {"tier": "control"},
        "podAnnotations": {"prometheus.io/scrape": "true"},
    },
    "pod placement": {
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "control", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "system-cluster-critical",
    },
    "user chosen by the platform": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None},
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    },
    "extra objects": {
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-b'}\n",
        ]
    },
}
