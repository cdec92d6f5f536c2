"""Who may do what: API keys, stored as SHA-256 digests in a file that may change while the server runs.

The file is YAML: a list of {name, sha256, scopes}.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from whisper_inference.errors import KeyFileError, ScopeMissing, Unauthenticated
from whisper_inference.model_control import Trigger

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_log: FilteringBoundLogger = structlog.get_logger(__name__)


class Scope(StrEnum):
    """What a key allows."""

    USE = "use"
    """Transcribe, read the model's state, and list, read and cancel the key's own jobs."""
    CONTROL = "control"
    """Load and unload the model manually; implies use."""
    OPERATOR = "operator"
    """Load and unload as the operator, which does not count as manual; implies control."""
    ADMIN = "admin"
    """List, read and cancel everybody's jobs; implies use. It neither implies control nor is implied by it."""

    @property
    def implied(self) -> frozenset[Scope]:
        """This scope and those that come with it."""
        return _IMPLIED[self]


_IMPLIED = {
    Scope.USE: frozenset({Scope.USE}),
    Scope.CONTROL: frozenset({Scope.USE, Scope.CONTROL}),
    Scope.OPERATOR: frozenset({Scope.USE, Scope.CONTROL, Scope.OPERATOR}),
    Scope.ADMIN: frozenset({Scope.USE, Scope.ADMIN}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. scopes: all that are allowed, implied ones included."""

    name: str
    scopes: frozenset[Scope]
    authenticated: bool = True

    @property
    def trigger(self) -> Trigger:
        """As what a load or unload by this caller counts: as manual, unless it is the operator's own."""
        return "operator" if self.authenticated and Scope.OPERATOR in self.scopes else "manual"

    @property
    def visible_owner(self) -> str | None:
        """The owner whose jobs this caller may list, read and cancel; None: everybody's."""
        return None if Scope.ADMIN in self.scopes else self.name


ANONYMOUS = Principal("anonymous", frozenset(Scope), authenticated=False)
"""Everybody, where no keys are configured."""


def _not_reserved(name: str) -> str:
    # A key of this name would own the jobs that were stored while no keys were configured.
    if name == ANONYMOUS.name:
        raise PydanticCustomError("reserved", "'{name}' is reserved for requests without a key", {"name": name})
    return name


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_not_reserved)]
    sha256: Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]


_ENTRIES = TypeAdapter(list[_Entry])
_MOST_CHARACTERS = 2**20


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    principal: Principal


@dataclass(frozen=True, slots=True)
class _Signature:
    """Changes when the file is written or, as in a mounted Secret, exchanged."""

    mtime_ns: int
    size: int
    inode: int


class KeyRing:
    """The keys of one file, in its last valid version; without a file everybody is ANONYMOUS."""

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises KeyFileError if it is missing or invalid."""
        self._path = path
        self._signature = _signature(path) if path else None
        self._keys = _read_keys(path) if path else ()

    def authorise(self, authorization: str | None, scope: Scope) -> Principal:
        """Return the caller that an Authorization header identifies. Raises Unauthenticated, ScopeMissing."""
        if self._path is None:
            return ANONYMOUS
        self._reread_if_changed(self._path)
        principal = self._find(_bearer_token(authorization))
        if principal is None:
            raise Unauthenticated
        if scope not in principal.scopes:
            raise ScopeMissing(scope=scope.value)
        return principal

    def _find(self, token: str | None) -> Principal | None:
        if token is None:
            return None
        # ASGI decodes headers as latin-1. Every key is compared, so that timing reveals nothing about their order.
        digest = hashlib.sha256(token.encode("latin-1", "backslashreplace")).digest()
        matches = [key.principal for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return matches[0] if matches else None

    def _reread_if_changed(self, path: Path) -> None:
        signature = _signature(path)
        if signature == self._signature:
            return
        # Noted before the file is read: if it changes meanwhile, the next call reads it again.
        self._signature = signature
        try:
            self._keys = _read_keys(path)
        except KeyFileError as error:
            _log.warning("key file invalid, the last valid version stays in effect", path=str(path), reason=str(error))
        else:
            _log.info("key file reread", path=str(path), keys=len(self._keys))


def _bearer_token(authorization: str | None) -> str | None:
    """Return the token of the scheme Bearer, whose name is case-insensitive (RFC 9110, 11.1)."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _signature(path: Path) -> _Signature | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _Signature(stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _read_keys(path: Path) -> tuple[_Key, ...]:
    try:
        # BaseLoader only returns text, lists and mappings: a digest of digits stays text.
        content = yaml.load(_text_of(path), Loader=yaml.BaseLoader)  # noqa: S506
        entries = _ENTRIES.validate_python(content)
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise KeyFileError(f"the key file {path} is not YAML: {_place(error)}") from None
    except RecursionError:
        raise KeyFileError(f"the key file {path} is not a list of keys: it is nested too deeply") from None
    except ValidationError as error:
        raise KeyFileError(f"the key file {path} is not a list of name, sha256, scopes: {_reasons(error)}") from None
    for field, values in (("name", [entry.name for entry in entries]), ("sha256", [entry.sha256 for entry in entries])):
        if repeated := _first_repeated(values):
            raise KeyFileError(
                f"the key file {path} has the same {field} twice, in entries {repeated[0]} and {repeated[1]}"
            )
    return tuple(_key(entry) for entry in entries)


def _text_of(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise KeyFileError(f"the key file {path} is not a regular file")
    with path.open(encoding="utf-8") as file:
        text = file.read(_MOST_CHARACTERS + 1)
    if len(text) > _MOST_CHARACTERS:
        raise KeyFileError(f"the key file {path} is longer than {_MOST_CHARACTERS} characters")
    return text


def _key(entry: _Entry) -> _Key:
    scopes = frozenset[Scope]().union(*(scope.implied for scope in entry.scopes))
    return _Key(bytes.fromhex(entry.sha256), Principal(entry.name, scopes))


def _first_repeated(values: Iterable[str]) -> tuple[int, int] | None:
    """Return the positions of two equal values, counted from 1."""
    seen: dict[str, int] = {}
    for place, value in enumerate(values, start=1):
        if value in seen:
            return seen[value], place
        seen[value] = place
    return None


def _reasons(error: ValidationError) -> str:
    problems = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{_where(problem['loc'])}{problem['msg']}" for problem in problems)


def _where(location: tuple[int | str, ...]) -> str:
    parts = [f"entry {part + 1}" if isinstance(part, int) else part for part in location]
    return f"{', '.join(parts)}: " if parts else ""


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, {error.problem}"
    return "it contains a character that YAML does not allow"
