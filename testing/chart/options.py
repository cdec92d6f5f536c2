"""Sets of values that together cover every option of the chart."""

from __future__ import annotations

from typing import Any

SHA = f"sha256:{'ab' * 32}"
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "speech"}}}
MODEL = {"name": "dictation", "spec": {"model": {"size": "base"}}}
PLACEMENT: dict[str, Any] = {
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "control", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
}
USER_CHOSEN_BY_THE_PLATFORM: dict[str, Any] = {
    "podSecurityContext": {"runAsUser": None, "runAsGroup": None},
    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
}

GATEWAY: dict[str, dict[str, Any]] = {
    "no gateway": {"enabled": False},
    "gateway's name": {"name": "transcribe"},
    "gateway's image by tag": {"image": {"repository": "a/gateway", "tag": "1.2", "pullPolicy": "Always"}},
    "gateway's image by digest": {"image": {"digest": SHA}, "imagePullSecrets": [{"name": "registry"}]},
    "gateway with other keys": {"keysSecret": "clients"},
    "gateway without a volume": {"persistence": {"enabled": False, "size": "5Gi"}},
    "gateway's volume": {"persistence": {"size": "100Gi", "storageClass": "fast", "keep": False}},
    "gateway with an existing claim": {"persistence": {"existingClaim": "jobs"}},
    "gateway's limits": {
        "drain": "1h30m",
        "maxWaiting": 5,
        "maxWait": "30s",
        "maxAudioBytes": "100Mi",
        "maxStoredBytes": "1Gi",
        "jobRetention": "1h",
        "metricsAuth": "key",
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com"}],
    },
    "clients of the gateway": {"allowFrom": [PEER]},
    "gateway's Service": {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
    "Ingress": {"ingress": {"enabled": True}},
    "Ingress with hosts": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "1g"},
            "hosts": ["a.example.com", "b.example.com"],
            "path": "/whisper",
            "tls": [{"hosts": ["a.example.com"], "secretName": "a-tls"}],
        }
    },
    "HTTPRoute": {
        "httpRoute": {
            "enabled": True,
            "annotations": {"a": "b"},
            "parentRefs": [{"name": "public", "namespace": "speech"}],
            "hostnames": ["a.example.com"],
            "timeouts": {"request": "630s", "backendRequest": "630s"},
        }
    },
    "gateway's service account": {"serviceAccount": {"name": "scribe", "annotations": {"a": "b"}}},
    "gateway without a service account": {"serviceAccount": {"create": False}},
    "gateway's resources": {"resources": {"limits": {"memory": "1Gi"}}},
    "gateway's labels and annotations": {"podLabels": {"tier": "front"}, "podAnnotations": {"a": "b"}},
    "gateway's placement": PLACEMENT,
}
"""Values of the gateway."""

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
    **{name: {"gateway": values} for name, values in GATEWAY.items()},
    "gateway with namespaces and without policies": {
        "namespaces": ["speech"],
        "networkPolicy": {"enabled": False},
        "serviceMonitor": {"enabled": True},
        "gateway": {"metricsAuth": "key"},
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
    "unlimited Leases": {"rbac": {"limitLeases": False}},
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
    "pod placement": PLACEMENT,
    "user chosen by the platform": USER_CHOSEN_BY_THE_PLATFORM | {"gateway": USER_CHOSEN_BY_THE_PLATFORM},
    "extra objects": {
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-b'}\n",
        ]
    },
}
