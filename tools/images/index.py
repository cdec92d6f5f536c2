"""Pass the package index settings of this machine to a build, as secrets that do not end up in the image."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

_PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
_CA_IN_BUILD = "/run/secrets/ca"


def index_secrets(environ: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write the index, proxy and certificate settings of an environment into a folder; return the files by secret id.

    index: a shell script that the build steps source. ca: a certificate bundle, if the environment names one.
    """
    passed = {name: environ[name] for name in (*_PASSED_ON, *_PROXIES) if environ.get(name)}
    # uv and pip use different variables for the same setting.
    if "PIP_INDEX_URL" in passed:
        passed.setdefault("UV_DEFAULT_INDEX", passed["PIP_INDEX_URL"])
    bundle = next((Path(environ[name]) for name in _CERTIFICATES if environ.get(name)), None)
    if bundle:
        passed |= {"PIP_CERT": _CA_IN_BUILD, "SSL_CERT_FILE": _CA_IN_BUILD}
    script = folder / "index.sh"
    script.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in passed.items()))
    return {"index": script, **({"ca": bundle} if bundle else {})}
