"""Find the string constants that can reach a parameter with a given name, by static analysis.

The result does not depend on module names. Values known only at run time, such as reasons from a kubelet, are not
found.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Values = Mapping[str, list[ast.expr]]


def literals_given(parameter: str, modules: Sequence[ast.Module], *, apart_from: frozenset[str]) -> set[str]:
    """Return the strings passed to a parameter or field. apart_from: enums whose members are ignored."""
    constants = _constants(modules, apart_from)
    positions = _positions(parameter, modules)
    found: set[str] = set()
    for block in (block for module in modules for block in _blocks(module.body)):
        if values := list(_given(parameter, block, positions)):
            known = {**constants, **_assigned(ast.walk(block))}
            found.update(text for value in values for text in _reached(value, known))
    return found


def _blocks(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the functions, methods, fields and other statements of a module."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _blocks(statement.body)
        else:
            yield statement


def _constants(modules: Sequence[ast.Module], apart_from: frozenset[str]) -> _Values:
    """Return the values assigned in modules, by NAME, and in classes, by Class.NAME."""
    found: dict[str, list[ast.expr]] = defaultdict(list)
    for module in modules:
        for name, values in _assigned(module.body).items():
            found[name] += values
        for one in ast.walk(module):
            if isinstance(one, ast.ClassDef) and one.name not in apart_from:
                for name, values in _assigned(one.body).items():
                    found[f"{one.name}.{name}"] += values
    return found


def _assigned(nodes: Iterable[ast.AST]) -> _Values:
    found: dict[str, list[ast.expr]] = defaultdict(list)
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                pairs = list(zip(targets, values, strict=False))
            case ast.Assign(targets=targets, value=value):
                pairs = [(target, value) for target in targets]
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                pairs = [(target, value)]
            case _:
                continue
        for target, value in pairs:
            if isinstance(target, ast.Name):
                found[target.id].append(value)
    return found


def _positions(parameter: str, modules: Sequence[ast.Module]) -> Mapping[str, set[int]]:
    """Return the positions of the parameter in callables, by the callable's name."""
    found: dict[str, set[int]] = defaultdict(set)
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.ClassDef):
            names = [
                one.target.id
                for one in node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            ]
        elif isinstance(node, _Function):
            names = [one.arg for one in node.args.args if one.arg not in ("self", "cls")]
        else:
            continue
        if parameter in names:
            found[node.name].add(names.index(parameter))
    return found


def _given(parameter: str, block: ast.stmt, positions: Mapping[str, set[int]]) -> Iterator[ast.expr]:
    """Yield the arguments and defaults of the parameter within a block."""
    for node in ast.walk(block):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
                yield from (word.value for word in keywords if word.arg == parameter)
                yield from (args[at] for at in positions.get(name, ()) if at < len(args))
            case ast.arguments(args=args, defaults=defaults, kwonlyargs=only, kw_defaults=only_defaults):
                pairs = [*zip(reversed(args), reversed(defaults), strict=False), *zip(only, only_defaults, strict=True)]
                yield from (value for one, value in pairs if one.arg == parameter and value is not None)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name == parameter:
                yield value
            case _:
                pass


def _reached(value: ast.expr, known: _Values, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the strings that an expression can evaluate to; results of calls are unknown."""
    match value:
        case ast.Constant(value=str() as text):
            yield text
            return
        case ast.IfExp(body=first, orelse=second):
            inner = [first, second]
        case ast.BoolOp(values=inner) | ast.Dict(values=inner):
            pass
        case ast.Subscript(value=one) | ast.NamedExpr(value=one):
            inner = [one]
        case ast.Name() | ast.Attribute() if (name := ast.unparse(value)) not in seen:
            inner, seen = known.get(name, []), seen | {name}
        case _:
            return
    for one in inner:
        yield from _reached(one, known, seen)
