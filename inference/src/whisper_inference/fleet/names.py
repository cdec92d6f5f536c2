"""Which WhisperModel a client means by a name."""

from __future__ import annotations

from whisper_inference.errors import ModelAmbiguous, ModelNotFound, ModelNotNamed
from whisper_inference.fleet.fleet import Fleet, FleetModel
from whisper_inference.jobs.models import ANY_MODEL
from whispermodel.catalog import names_of_size
from whispermodel.key import Key

_MOST_NAMED = 10
"""Names in an error message."""


def find_model(fleet: Fleet, name: str | None, *, own_namespace: str) -> Key:
    """Return the model of a name; None or whisper-1 stands for the only one.

    A resource's own name comes before aliases, and aliases before the published names of its size; each in the own
    namespace first. Raises ModelNotFound, ModelNotNamed, ModelAmbiguous.
    """
    if not name or name == ANY_MODEL:
        return _only_model(fleet, own_namespace)
    exact = Key(*name.split("/", 1)) if "/" in name else Key(own_namespace, name)
    if fleet.models.get(exact) is not None:
        return exact
    for is_meant in (_has_alias, _has_size):
        meant = [model.key for model in fleet.all() if is_meant(model, name)]
        own = [key for key in meant if key.namespace == own_namespace]
        if candidates := own or meant:
            return _one_of(candidates, name, own_namespace)
    raise ModelNotFound(model=name[:64])


def aliases_of(model: FleetModel) -> tuple[str, ...]:
    """Return the other names of a model, its own aliases first."""
    if model.spec is None:
        return ()
    return tuple(dict.fromkeys((*model.spec.aliases, *names_of_size(model.spec.model.size))))


def shown(key: Key, own_namespace: str) -> str:
    """Return what clients call a model: its name, with its namespace if that is another one."""
    return key.name if key.namespace == own_namespace else str(key)


def _only_model(fleet: Fleet, own_namespace: str) -> Key:
    keys = [model.key for model in fleet.all()]
    own = [key for key in keys if key.namespace == own_namespace]
    for few in (own, keys):
        if len(few) == 1:
            return few[0]
    if not keys:
        raise ModelNotFound(model=ANY_MODEL)
    raise ModelNotNamed(models=_listed(own or keys, own_namespace))


def _one_of(keys: list[Key], name: str, own_namespace: str) -> Key:
    if len(keys) > 1:
        raise ModelAmbiguous(model=name[:64], models=_listed(keys, own_namespace))
    return keys[0]


def _listed(keys: list[Key], own_namespace: str) -> str:
    names = [shown(key, own_namespace) for key in keys[:_MOST_NAMED]]
    return ", ".join(names + (["..."] if len(keys) > _MOST_NAMED else []))


def _has_alias(model: FleetModel, name: str) -> bool:
    return model.spec is not None and name in model.spec.aliases


def _has_size(model: FleetModel, name: str) -> bool:
    return model.spec is not None and name in names_of_size(model.spec.model.size)
