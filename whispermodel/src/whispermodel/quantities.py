"""Numbers of bytes as Kubernetes writes them: 1Gi, 500Mi, 2G, 1048576."""

from __future__ import annotations

import re
from decimal import Decimal
from math import ceil

_FACTORS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
"""The suffixes of resource quantities that make sense for bytes (k8s.io/apimachinery, pkg/api/resource)."""

_QUANTITY = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([KMGT]i|[kMGT]|)")

LARGEST = 2**63 - 1
"""The largest integer that the API server and databases can store."""


class QuantityError(ValueError):
    """The text is not a valid number of bytes; the message says what is."""


def parse_bytes(text: str) -> int:
    """Return the number of bytes, rounded up as Kubernetes does. Raises QuantityError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise QuantityError(f"{text!r} is not a number of bytes: write one such as 1Gi, 500Mi or 1048576")
    count = ceil(Decimal(match[1]) * _FACTORS[match[2]])
    if count > LARGEST:
        raise QuantityError(f"{text!r} is too large: the largest number of bytes is {LARGEST}")
    return count


def format_bytes(count: int) -> str:
    """Return the shortest exact form with a binary suffix: 1073741824 is 1Gi, 1000 is 1000."""
    for suffix in ("Ti", "Gi", "Mi", "Ki"):
        if count and count % _FACTORS[suffix] == 0:
            return f"{count // _FACTORS[suffix]}{suffix}"
    return str(count)
