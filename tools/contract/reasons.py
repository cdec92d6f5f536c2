"""Words that other programs may match: states, condition types, reasons, problem codes, scopes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tools.contract import ROOT
from tools.contract.literals import literals_given
from whisper_inference.api.auth import Scope
from whisper_inference.errors import ServiceError
from whisper_operator.reconcile.events import EventReason
from whispermodel.conditions import ConditionType
from whispermodel.planning.modes import Reason
from whispermodel.states import State

_CAMEL_CASE = re.compile(r"([A-Z][a-z]+)+")
_LISTED_SEPARATELY = frozenset({State.__name__, Reason.__name__, EventReason.__name__})


def reasons() -> Iterator[str]:
    """Yield a line for each word."""
    yield from (f"state {one}" for one in State)
    yield from (f"target reason {one}" for one in Reason)
    yield from (f"condition type {one}" for one in ConditionType)
    yield from (f"condition or failure reason {one}" for one in _literal_reasons())
    yield from (f"event reason {one}" for one in EventReason)
    yield from (f"scope {scope}: implies {' '.join(sorted(scope.implied - {scope})) or 'none'}" for scope in Scope)
    yield from (f"problem {kind.code}: {kind.status}" for kind in (ServiceError, *_kinds_of(ServiceError)))


def _kinds_of(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds_of(one)


def _literal_reasons() -> set[str]:
    """Return the reasons of conditions and failures, which are string literals in the code."""
    sources = sorted(ROOT.glob("*/src/**/*.py"))
    modules = [ast.parse(source.read_text(encoding="utf-8")) for source in sources]
    given = literals_given("reason", modules, apart_from=_LISTED_SEPARATELY)
    return {text for text in given if _CAMEL_CASE.fullmatch(text)}
