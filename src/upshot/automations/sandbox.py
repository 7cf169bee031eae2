"""
What a template may be and what it may reach: Jinja's sandbox, emptied, behind an allow-list.

Three walls, each enough on its own for most attacks: Jinja's immutable sandbox, with all its
globals, filters and tests taken away; an allow-list over the parsed template, which knows no
calls, no macros, no imports; and our own access to fields, which sees keys of mappings and places
in lists, never an attribute of a Python object. `filters` bounds what is computed, the size of
what comes out, and the rounds of loops.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NoReturn

from jinja2 import StrictUndefined, Undefined, nodes
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from upshot.automations import filters
from upshot.automations.filters import BUDGET, RenderError, describe

MAX_NODES = 4_000  # a template of so many nodes takes about 0.2 s to compile, once
MAX_NESTING = 40  # Python's own compiler gives up at about 100 nested brackets
MAX_NESTED_BLOCKS = 8  # Python's own compiler gives up at 20

_LOOP_FIELDS = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length"})

_ALLOWED_NODES: frozenset[type[nodes.Node]] = frozenset(
    {
        *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign),
        *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword),
        *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.CondExpr),
        *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat),
        *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
    }
)

_INSTEAD_OF_CALLS = {
    "capitalize": "`| title`",
    "endswith": "`is endingwith(…)`",
    "format": "`~` to join texts",
    "get": "`| default(…)`",
    "items": "`| items`",
    "join": "`| join(…)`",
    "keys": "`| list`",
    "len": "`| length`",
    "lower": "`| lower`",
    "range": "a loop over data",
    "replace": "`| replace(…)`",
    "split": "`| split(…)`",
    "startswith": "`is startingwith(…)`",
    "strip": "`| trim`",
    "upper": "`| upper`",
}


class Lookup:
    """A context whose fields are looked up when a template names them; templates cannot list or write out all."""

    def look_up(self, name: str) -> Any:
        """
        The value of this name.

        Raises:
            RenderError: There is none.
        """
        raise NotImplementedError


class TemplateNotAllowed(Exception):
    """A template is not allowed; the line counts from 1 within the template."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line or 1  # Jinja knows no line of some nodes


@dataclass(frozen=True, slots=True)
class PathReference:
    """A name with the fields that a template looks up below it, such as ("steps", "gate", "outputs")."""

    parts: tuple[str, ...]
    line: int  #: within the template, counted from 1


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'slack'?`, or, when nothing is near, an empty text."""
    close = difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


# --- what templates reach -------------------------------------------------------------------------


class _Unknown(StrictUndefined):
    """What is not there: every use of it fails, with the path and the nearest right word."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        path = self._undefined_name or "a value"
        parent, dot, name = path.rpartition(".")
        holder = self._undefined_obj
        if not dot or not isinstance(holder, dict | list | tuple | str | int | float):
            return f"{path!r} is unknown" if self._undefined_hint is None else self._undefined_hint
        if isinstance(holder, dict):
            guess = nearest(name, holder)
            return f"{parent!r} has no {name!r}{guess or '; where it may be missing, write `| default(…)`'}"
        if isinstance(holder, list | tuple):
            return f"{parent!r} is a list and has no {name!r}; write `{parent}[0]`, or loop over it"
        instead = _INSTEAD_OF_CALLS.get(name)
        return f"{parent!r} is {describe(holder)} and has no {name!r}" + (f"; write {instead}" if instead else "")


def expect_known(*values: Any) -> None:
    """Raise UndefinedError for a value that is not there."""
    for value in values:
        if isinstance(value, Undefined):
            str(value)  # raises UndefinedError, with the path and the nearest right word


def look_up(holder: Any, key: Any, path: str) -> Any:
    """Look up a field; the only way in which a template reaches into a value."""
    expect_known(key)
    if isinstance(key, str) and key.startswith("_"):
        raise RenderError(f"{path!r}: names that begin with `_` are out of reach")
    if isinstance(holder, dict):
        if isinstance(key, str) and key in holder:
            return holder[key]
    elif holder is None or isinstance(holder, Undefined):
        return holder
    elif isinstance(holder, list | tuple):
        if isinstance(key, int) and not isinstance(key, bool) and -len(holder) <= key < len(holder):
            return holder[key]
    elif isinstance(holder, Lookup):
        if isinstance(key, str):
            return holder.look_up(key)
    elif isinstance(holder, LoopContext) and key in _LOOP_FIELDS:
        return getattr(holder, key)
    return _Unknown(obj=holder, name=path)


def _text_of(value: Any) -> str:
    expect_known(value)
    return filters.text_of(value)


def _guarded(function: Callable[..., Any], *, takes_unknown: bool = False) -> Callable[..., Any]:
    """Wrap a filter or test: unknown values fail, what it handled is counted."""

    @wraps(function)
    def call(value: Any, *args: Any, **options: Any) -> Any:
        if takes_unknown and isinstance(value, Undefined):
            value = None
        expect_known(value, *args, *options.values())
        result = function(value, *args, **options)
        BUDGET.spend(1 + _size(value) + _size(result))
        return result

    return call


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value) >> 6
    return len(value) if isinstance(value, dict | list | tuple) else 0


# Filters that only we put into a template; no one can write these names.
_FIELD, _EACH, _CONCAT, _WEIGH = ":field", ":each", ":concat", ":weigh"


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with nothing in it but what `filters` offers."""

    intercepted_binops = frozenset(filters.OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            undefined=_Unknown, finalize=_text_of, keep_trailing_newline=True, optimized=False, cache_size=0
        )
        self.globals.clear()
        self.filters = {name: _guarded(f, takes_unknown=name == "default") for name, f in filters.FILTERS.items()}
        self.filters |= {
            _FIELD: look_up,
            _EACH: _guarded(filters.each),
            _CONCAT: _guarded(filters.concat),
            _WEIGH: _guarded(filters.weigh),
        }
        self.tests = {name: _guarded(f) for name, f in filters.TESTS.items()}
        self.tests |= {
            "defined": lambda value: not isinstance(value, Undefined),
            "undefined": lambda value: isinstance(value, Undefined),
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        expect_known(left, right)
        BUDGET.spend(1)
        return filters.OPERATORS[operator](left, right)

    # What the allow-list lets through reaches none of these; they hold if it should ever fail.

    def getattr(self, obj: Any, attribute: str) -> Any:
        return look_up(obj, attribute, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return look_up(obj, argument, str(argument))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return False

    def is_safe_callable(self, obj: Any) -> bool:
        return False


SANDBOX = _Sandbox()
_SIGNATURES = {
    **{("filter", name): inspect.signature(function) for name, function in filters.FILTERS.items()},
    **{("test", name): inspect.signature(function) for name, function in filters.TESTS.items()},
    **{("test", name): inspect.signature(lambda value: value) for name in ("defined", "undefined")},
}


# --- the allow-list -------------------------------------------------------------------------------


class TemplateInspector:
    """Walks over a parsed template: refuses what is not allowed, and collects the paths that it uses."""

    def __init__(self) -> None:
        self.paths: list[PathReference] = []
        self.assigned: set[str] = set()
        self._nodes = 0

    def walk(self, node: nodes.Node, depth: int = 0, blocks: int = 0) -> None:
        """Check a node and all below it; raises Fault."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_NESTING or blocks > MAX_NESTED_BLOCKS:
            raise TemplateNotAllowed("this template is too large or too deeply nested; take a simpler one", node.lineno)
        if type(node) not in _ALLOWED_NODES:
            _refuse(node)
        if isinstance(node, nodes.Name):
            self._name(node)
        elif isinstance(node, nodes.Getattr | nodes.Getitem):
            self._field(node)
        elif isinstance(node, nodes.Filter):
            _check_use("filter", node, filters.FILTERS)
        elif isinstance(node, nodes.Test):
            _check_use("test", node, SANDBOX.tests)
        elif isinstance(node, nodes.For):
            if node.recursive:
                raise TemplateNotAllowed("a loop cannot be recursive", node.lineno)
            self.assigned.add("loop")
        inside = blocks + isinstance(node, nodes.For | nodes.If)
        for child in node.iter_child_nodes():
            self.walk(child, depth + 1, inside)

    def _name(self, node: nodes.Name) -> None:
        if node.name.startswith("_"):
            raise TemplateNotAllowed(f"{node.name!r}: names that begin with `_` are out of reach", node.lineno)
        if node.ctx == "load":
            self.paths.append(PathReference((node.name,), node.lineno))
        else:
            self.assigned.add(node.name)

    def _field(self, node: nodes.Getattr | nodes.Getitem) -> None:
        key = _constant_key(node)
        if isinstance(key, str) and key.startswith("_"):
            raise TemplateNotAllowed(f"{key!r}: names that begin with `_` are out of reach", node.lineno)
        if parts := _parts(node):
            self.paths.append(PathReference(parts, node.lineno))


def _constant_key(node: nodes.Getattr | nodes.Getitem) -> Any:
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) else None


def _parts(node: nodes.Node) -> tuple[str, ...]:
    """The path that a node spells with constant names; empty when it is no such path."""
    if isinstance(node, nodes.Name):
        return (node.name,)
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        parent, key = _parts(node.node), _constant_key(node)
        return (*parent, key) if parent and isinstance(key, str) else ()
    return ()


def _spell(node: nodes.Node) -> str:
    """A path as messages name it."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{_spell(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem):
        key = _constant_key(node)
        return f"{_spell(node.node)}.{key}" if isinstance(key, str | int) else f"{_spell(node.node)}[…]"
    return "(…)"


def _check_use(what: str, node: nodes.Filter | nodes.Test, known: Collection[str]) -> None:
    if node.name not in known:
        raise TemplateNotAllowed(
            f"unknown {what} {node.name!r}{nearest(node.name, known) or _list_of(known)}", node.lineno
        )
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise TemplateNotAllowed(f"{what} {node.name!r}: `*` and `**` are not allowed", node.lineno)
    try:
        given = dict.fromkeys(str(option.key) for option in node.kwargs)
        _SIGNATURES[what, node.name].bind(None, *node.args, **given)
    except TypeError as error:
        raise TemplateNotAllowed(f"{what} {node.name!r}: {error}", node.lineno) from None


def _list_of(known: Collection[str]) -> str:
    return f"; known are {', '.join(sorted(known))}"


_TAGS = {
    "AssignBlock": "set … endset",
    "CallBlock": "call",
    "FilterBlock": "filter",
    "FromImport": "from … import",
    "NSRef": "set a.b",
    "Scope": "autoescape",
    "ScopedEvalContextModifier": "autoescape",
}


def _refuse(node: nodes.Node) -> NoReturn:
    if isinstance(node, nodes.Call):
        called = node.node.attr if isinstance(node.node, nodes.Getattr) else _spell(node.node)
        instead = _INSTEAD_OF_CALLS.get(called, "a filter")
        raise TemplateNotAllowed(f"`{called}(…)`: calls are not allowed; write {instead} instead", node.lineno)
    if isinstance(node, nodes.Pow):
        raise TemplateNotAllowed("`**` is not allowed", node.lineno)
    kind = type(node).__name__
    word = _TAGS.get(kind, kind.lower())
    raise TemplateNotAllowed(f"`{word}` is not allowed; templates have `if`, `for`, `set` and expressions", node.lineno)


def instrument(node: Any) -> Any:
    """Send what the sandbox does not intercept through our own functions: fields, loops, `~`, comparisons."""
    path = _spell(node)
    rounds = sum(1 for _ in node.find_all(nodes.Node)) if isinstance(node, nodes.For) else 0
    for name, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            setattr(node, name, instrument(value))
        elif isinstance(value, list):
            setattr(node, name, [instrument(item) if isinstance(item, nodes.Node) else item for item in value])
    if isinstance(node, nodes.Getattr):
        return _call(_FIELD, node.node, nodes.Const(node.attr), nodes.Const(path))
    if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice):
        return _call(_FIELD, node.node, node.arg, nodes.Const(path))
    if isinstance(node, nodes.Concat):
        return _call(_CONCAT, *node.nodes)
    if isinstance(node, nodes.CondExpr) and node.expr2 is None:
        node.expr2 = nodes.Const(None)  # Jinja gives its lenient undefined here
    if isinstance(node, nodes.Operand):
        node.expr = _call(_WEIGH, node.expr)
    if isinstance(node, nodes.For):
        node.iter = _call(_EACH, node.iter, nodes.Const(1 + rounds))
    return node


def _call(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)
