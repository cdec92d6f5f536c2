"""Write docs/settings.md from the docstrings in both settings.py, so that nothing is written twice.

python -m tools.settings_page
"""

from __future__ import annotations

import ast
import inspect
import sys
from datetime import timedelta
from enum import Enum
from pathlib import Path

from pydantic_settings import BaseSettings

from whisper_inference.settings import PREFIX, Settings
from whisper_operator.settings import PREFIX as OPERATOR_PREFIX
from whisper_operator.settings import Settings as OperatorSettings
from whispermodel.durations import format_duration
from whispermodel.quantities import format_bytes

PAGE = Path("docs/settings.md")

INTRODUCTION = """\
# Settings

The server reads them when it starts, from the environment and from a file `.env` in the working directory; the
environment wins. An empty value counts as not set. A name with the prefix `WHISPER_` that is not listed here stops the
start, with a hint at the nearest one that is; what Kubernetes adds for a Service named `whisper` is ignored.

Bytes are written as in Kubernetes (`1Gi`, `500Mi`, `1048576`), durations as in the Gateway API (`1h30m`, `15m`, `10s`).
`make docs` writes this page. `whisper-inference --version` and `whisper-operator --version` print the version that is
installed.

| name | default | meaning |
|---|---|---|
"""

CLOSING = """
## The key file

```yaml
- {name: laptop, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, scopes: [use]}
- {name: nightly, sha256: 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752, scopes: [control]}
- {name: support, sha256: fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13, scopes: [admin]}
```

`sha256` is the digest of the key, so the file holds no key: `printf %s "$KEY" | sha256sum`. A client sends
`Authorization: Bearer KEY`. The file is reread when it changes; a version that cannot be used is logged, and the last
good one stays. At the start it must be there and usable.

| scope | allows | includes |
|---|---|---|
| `use` | everything but loading and unloading the model; of jobs, the key's own | |
| `control` | loading and unloading the model | `use` |
| `operator` | the same for the operator, whose loads and unloads are not manual ones | `control` |
| `admin` | listing, reading and cancelling the jobs of all keys | `use` |

Neither `control` nor `operator` includes `admin`, and `admin` does not include `control`: a key may have several.

A job belongs to the `name` of the key that submitted it; to every other key without `admin` it does not exist (404).
A new digest under the same name, as when a key is rotated, keeps the jobs. When a name is removed from the file, its
jobs stay until `WHISPER_JOB_RETENTION` ends: for `admin` alone, or for the name if it comes back, so do not give it to
another client before then. Without a key file everybody sees all jobs; once there is one, jobs from the time without
are visible to `admin` alone. They are stored under the name `anonymous`, which no key may have.
"""


OPERATOR = """
## The operator

From the environment alone; `whisper-operator run --namespace NAME` beats the list of namespaces.

| name | default | meaning |
|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    return INTRODUCTION + _rows(Settings, PREFIX) + CLOSING + OPERATOR + _rows(OperatorSettings, OPERATOR_PREFIX)


def _rows(settings: type[BaseSettings], prefix: str) -> str:
    texts = _texts(settings)
    return "".join(
        f"| `{prefix}{name.upper()}` | {_default(field.default, name)} | {texts[name]} |\n"
        for name, field in settings.model_fields.items()
    )


def _texts(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the docstring under each setting, on one line."""
    [declaration] = ast.parse(inspect.getsource(settings)).body
    assert isinstance(declaration, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, text in zip(declaration.body, declaration.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                texts[name] = " ".join(words.split())
            case _:
                pass
    return texts


def _default(value: object, name: str) -> str:
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            return f"`{format_duration(value)}`"
        case int() if name.endswith("_bytes"):
            return f"`{format_bytes(value)}`"
        case Enum():
            return f"`{value.value}`"
        case str() | int() | float() | Path():
            return f"`{value}`"
        case _:
            return "not set"


def main() -> int:
    """Write the page; return the exit status."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
