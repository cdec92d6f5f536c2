"""Which of the providers this machine can have, and whose a context is."""

from __future__ import annotations

import yaml

from tools.clusters.base import KUBECONFIG, Provider, ProviderFailed
from tools.clusters.kind.cluster import KindCluster
from tools.clusters.local.cluster import LocalCluster

PROVIDERS: tuple[Provider, ...] = (KindCluster(), LocalCluster())
"""The first that works is taken: where Docker runs, people need not be root."""


def provider_for_this_machine() -> Provider:
    """Return the provider whose cluster is up, else the first that works here.

    Raises ProviderFailed with what each lacks.
    """
    if standing := _standing():
        return standing
    lacks = {provider.context: provider.why_not() for provider in PROVIDERS}
    for provider in PROVIDERS:
        if lacks[provider.context] is None:
            return provider
    told = "\n".join(f"  {context}: {reason}" for context, reason in lacks.items())
    raise ProviderFailed(f"there is no cluster that this machine can have:\n{told}\nOr name one by KUBECONFIG.")


def _standing() -> Provider | None:
    """Return the provider that wrote KUBECONFIG: it is removed when the cluster is."""
    if not KUBECONFIG.exists():
        return None
    return provider_of(yaml.safe_load(KUBECONFIG.read_text())["current-context"])


def provider_of(context: str) -> Provider | None:
    """Return the provider whose context this is; None: the cluster is somebody else's."""
    return next((provider for provider in PROVIDERS if provider.context == context), None)
