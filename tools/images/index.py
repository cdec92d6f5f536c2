"""How a build reaches the package index from this machine: passed on as secrets, so that no image remembers it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

_PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
_CA_IN_BUILD = "/run/secrets/ca"


def index_secrets(environ: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write what the environment says of index, proxy and certificates into a folder; return the files by secret.

    index: a piece of shell, which the steps of a build read. ca: the certificates to trust, if others than the usual.
    """
    passed = {name: environ[name] for name in (*_PASSED_ON, *_PROXIES) if environ.get(name)}
    # uv and pip name the same thing differently; who configured one means both.
    if "PIP_INDEX_URL" in passed:
        passed.setdefault("UV_DEFAULT_INDEX", passed["PIP_INDEX_URL"])
    bundle = next((Path(environ[name]) for name in _CERTIFICATES if environ.get(name)), None)
    if bundle:
        passed |= {"PIP_CERT": _CA_IN_BUILD, "SSL_CERT_FILE": _CA_IN_BUILD}
    script = folder / "index.sh"
    script.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in passed.items()))
    return {"index": script, **({"ca": bundle} if bundle else {})}
