"""Check for `helm test` that the operator is healthy and serves its metrics, and that the gateway is ready.

Arguments: the URLs of the operator's health and metrics, and of the gateway's readiness if there is a gateway.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from http.client import HTTPException

TIMEOUT_SECONDS = 60.0


def fetch(url: str, *, deadline: float) -> str:
    """Return the body of a successful response, retrying until the deadline: the pods may not be ready yet."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.read().decode()
        except (OSError, HTTPException) as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url}: {error}")
        time.sleep(1)


health, metrics, *ready = sys.argv[1:]
deadline = time.monotonic() + TIMEOUT_SECONDS
for url in (health, *ready):
    print(f"{url}: {fetch(url, deadline=deadline)}")
if "whisper_operator_build_info" not in fetch(metrics, deadline=deadline):
    sys.exit(f"{metrics}: not the operator's metrics")
print(f"{metrics}: ok")
