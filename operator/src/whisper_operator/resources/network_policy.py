"""The NetworkPolicy of a WhisperModel: who may connect to its pods."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from whisper_operator.resources.identity import Identity


def network_policy(identity: Identity, peers: Sequence[dict[str, JsonValue]] | None) -> dict[str, JsonValue]:
    """Return the NetworkPolicy to apply.

    peers: the NetworkPolicyPeers that may connect, to any port. None: everybody, as without a policy. That reverts an
    existing policy, which the operator has no right to delete.
    """
    rule: dict[str, JsonValue] = {} if peers is None else {"from": list[JsonValue](peers)}
    # A rule with an empty list of peers allows everybody.
    ingress: list[JsonValue] = [] if peers is not None and not peers else [rule]
    spec: dict[str, JsonValue] = {
        "podSelector": {"matchLabels": identity.selector},
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    }
    return {"metadata": identity.metadata, "spec": spec}
