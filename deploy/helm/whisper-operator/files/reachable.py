"""What `helm test` runs: the operator is well and tells its figures. Arguments: the URLs of its health and metrics."""

from __future__ import annotations

import sys
import time
import urllib.request
from http.client import HTTPException

PATIENCE_SECONDS = 60.0


def answer(url: str, *, deadline: float) -> str:
    """Return what a URL answers with success, which a Service does only after its pods are ready."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.read().decode()
        except (OSError, HTTPException) as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url}: {error}")
        time.sleep(1)


health, metrics = sys.argv[1:]
until = time.monotonic() + PATIENCE_SECONDS
print(f"{health}: {answer(health, deadline=until)}")
if "whisper_operator_build_info" not in answer(metrics, deadline=until):
    sys.exit(f"{metrics}: these are not the operator's metrics")
print(f"{metrics}: the operator's metrics")
