"""The Deployment of a WhisperModel: pods of the transcription server, whose model is loaded over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import JsonValue, ValidationError

from whisper_cluster.names import KEYS_SECRET, SERVER_PORT
from whisper_operator.resources.identity import Identity
from whisper_operator.resources.keys_secret import FILE_ENTRY
from whispermodel.durations import format_duration
from whispermodel.quantities import format_bytes
from whispermodel.spec import GROUP, Pod, Spec

Json = dict[str, JsonValue]

CONTAINER = "inference"
_USER = 65532
"""The user of distroless images; all our images use it."""
_GRACE_SECONDS = 3600
"""Long enough to finish accepted work: the slowest model transcribes an hour of audio in less."""
_GRACE_LEFT_SECONDS = 30
"""The part of the grace period reserved for unloading and closing after the work."""
_DATA, _CACHE, _KEYS = "/var/lib/whisper", "/models", "/etc/whisper-keys"

IMAGE_ANNOTATION = f"{GROUP}/image-of"
"""On a Deployment: where the image of its pods was set, `spec` or `settings`."""
POD_DEFAULTS_ANNOTATION = f"{GROUP}/pod-defaults"
"""On a Deployment: the defaults for spec.pod that it was created with, as JSON."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the operator's settings provide for pods.

    image, image_pull_policy: of pods whose spec sets none. pod: fields of spec.pod that are not set.
    """

    image: str
    image_pull_policy: str = "IfNotPresent"
    pod: Pod = field(default_factory=Pod)

    def as_applied(self, annotations: Mapping[str, str]) -> Defaults:
        """Return the defaults with the pod fields that a Deployment was created with."""
        try:
            return replace(self, pod=Pod.model_validate_json(annotations.get(POD_DEFAULTS_ANNOTATION, "{}")))
        except ValidationError:
            return self  # Somebody else has written the annotation.

    def under(self, spec: Spec) -> Spec:
        """Return the spec with defaults for the pod fields it does not set; a field that is set is not merged."""
        given = {name: getattr(spec.pod, name) for name in spec.pod.model_fields_set}
        return spec.model_copy(update={"pod": self.pod.model_copy(update=given)})

    @property
    def annotations(self) -> Json:
        """The annotations from which as_applied restores them."""
        fields = self.pod.model_dump_json(exclude_unset=True)
        return {} if fields == "{}" else {POD_DEFAULTS_ANNOTATION: fields}


def deployment(identity: Identity, spec: Spec, *, replicas: int | None, defaults: Defaults) -> Json:
    """Return the Deployment to apply. replicas: None leaves them to another field manager."""
    annotations: Json = {IMAGE_ANNOTATION: "spec" if spec.pod.image else "settings", **defaults.annotations}
    spec = defaults.under(spec)
    return {
        "metadata": {**identity.metadata, "annotations": annotations},
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": identity.selector},
            "strategy": _strategy(spec),
            "template": _template(identity, spec, defaults=defaults),
        },
    }


def _strategy(spec: Spec) -> Json:
    """Return a strategy without surge: the node may have one GPU, so an old pod must end before a new one starts.

    A rolling update waits only until the old pod is terminating, not until it is gone; Recreate waits.
    """
    if spec.replicas == 1:
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def _template(identity: Identity, spec: Spec, *, defaults: Defaults) -> Json:
    pod = spec.pod
    metadata: Json = {"labels": {**pod.labels, **identity.labels}, "annotations": dict[str, JsonValue](pod.annotations)}
    body: Json = {
        "automountServiceAccountToken": False,
        # A Service named `whisper` would inject WHISPER_PORT=tcp://..., which is not ours.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _grace_seconds(pod),
        "securityContext": _pod_security(),
        "containers": [_container(spec, defaults=defaults)],
        "volumes": _merged(_volumes(spec), pod.volumes, by="name"),
        **_given_fields(pod),
    }
    return {"metadata": metadata, "spec": body}


def _given_fields(pod: Pod) -> Json:
    """Return the fields of spec.pod that are passed to Kubernetes unchanged."""
    fields: Json = {
        "imagePullSecrets": list[JsonValue](pod.image_pull_secrets),
        "nodeSelector": dict[str, JsonValue](pod.node_selector),
        "tolerations": list[JsonValue](pod.tolerations),
        "affinity": pod.affinity,
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
        "serviceAccountName": pod.service_account_name,
    }
    return {name: value for name, value in fields.items() if value}


def _container(spec: Spec, *, defaults: Defaults) -> Json:
    pod = spec.pod
    container: Json = {
        "name": CONTAINER,
        "image": pod.image or defaults.image,
        "imagePullPolicy": pod.image_pull_policy or defaults.image_pull_policy,
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "env": _merged(_environment(spec), pod.env, by="name"),
        "startupProbe": _probe("startup", period=1, failures=120),
        "readinessProbe": _probe("ready", period=5, failures=2),
        "livenessProbe": _probe("live", period=10, failures=6),
        "securityContext": _container_security(),
        "volumeMounts": _merged(_mounts(), pod.volume_mounts, by="mountPath"),
    }
    return {**container, "resources": pod.resources} if pod.resources else container


def _merged(ours: Sequence[JsonValue], theirs: Sequence[JsonValue], *, by: str) -> list[JsonValue]:
    """Merge two lists by name; the last entry wins. Server-side apply rejects a list that repeats a name."""
    entries = {one.get(by) if isinstance(one, dict) else None: one for one in (*ours, *theirs)}
    return list(entries.values())


def _environment(spec: Spec) -> list[JsonValue]:
    model, queue = spec.model, spec.queue
    values = {
        "WHISPER_MODEL": model.size,
        "WHISPER_ENGINE": model.engine.value,
        "WHISPER_DEVICE": model.device.value if model.device else None,
        "WHISPER_COMPUTE_TYPE": model.compute_type.value if model.compute_type else None,
        "WHISPER_MODEL_PATH": model.source.path if model.source else None,
        "WHISPER_MODEL_SHA256": model.source.sha256 if model.source else None,
        "WHISPER_PRELOAD_MODEL": "false",
        "WHISPER_HOST": "0.0.0.0",
        "WHISPER_PORT": str(SERVER_PORT),
        "WHISPER_DATA_DIR": _DATA,
        "WHISPER_CACHE_DIR": _CACHE,
        "WHISPER_API_KEYS_FILE": f"{_KEYS}/{FILE_ENTRY}",
        "WHISPER_MAX_WAITING": str(queue.max_waiting),
        "WHISPER_MAX_WAIT": format_duration(queue.max_wait),
        "WHISPER_MAX_STORED_BYTES": format_bytes(queue.max_audio_bytes),
        "WHISPER_DRAIN": f"{max(0, _grace_seconds(spec.pod) - _GRACE_LEFT_SECONDS)}s",
    }
    return [{"name": name, "value": value} for name, value in values.items() if value is not None]


def _grace_seconds(pod: Pod) -> int:
    given = pod.termination_grace_period_seconds
    return _GRACE_SECONDS if given is None else given


def _probe(route: str, *, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": f"/health/{route}", "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _volumes(spec: Spec) -> list[JsonValue]:
    claim: Json = {"persistentVolumeClaim": {"claimName": spec.cache.persistent_volume_claim}} if spec.cache else {}
    return [
        {"name": "data", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "models", **(claim or {"emptyDir": {}})},
        {"name": "keys", "secret": {"secretName": KEYS_SECRET, "items": [{"key": FILE_ENTRY, "path": FILE_ENTRY}]}},
    ]


def _mounts() -> list[JsonValue]:
    return [
        {"name": "data", "mountPath": _DATA},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- inside the container
        {"name": "models", "mountPath": _CACHE},
        {"name": "keys", "mountPath": _KEYS, "readOnly": True},
    ]


def _pod_security() -> Json:
    """Return what the Pod Security Standard `restricted` requires of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container_security() -> Json:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
