"""Choose the cluster provider for this machine, and find the provider of a context."""

from __future__ import annotations

import yaml

from tools.clusters.base import KUBECONFIG, Provider, ProviderFailed
from tools.clusters.kind.cluster import KindCluster
from tools.clusters.local.cluster import LocalCluster

PROVIDERS: tuple[Provider, ...] = (KindCluster(), LocalCluster())
"""In order of preference: with Docker, root is not required."""


def provider_for_this_machine() -> Provider:
    """Return the provider whose cluster is running, else the first that can run on this machine.

    Raises ProviderFailed with the reason for each provider.
    """
    if running := _running():
        return running
    reasons = {provider.context: provider.unavailable_reason() for provider in PROVIDERS}
    for provider in PROVIDERS:
        if reasons[provider.context] is None:
            return provider
    details = "\n".join(f"  {context}: {reason}" for context, reason in reasons.items())
    raise ProviderFailed(
        f"This machine cannot run a test cluster:\n{details}\nOr set KUBECONFIG to use an existing one."
    )


def _running() -> Provider | None:
    """Return the provider that wrote KUBECONFIG, which is deleted with the cluster."""
    if not KUBECONFIG.exists():
        return None
    return provider_of(yaml.safe_load(KUBECONFIG.read_text())["current-context"])


def provider_of(context: str) -> Provider | None:
    """Return the provider of a context, or None if the cluster is not one of ours."""
    return next((provider for provider in PROVIDERS if provider.context == context), None)
