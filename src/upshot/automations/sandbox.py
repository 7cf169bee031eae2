"""
What a template can contain and what it can reach: Jinja's sandbox, emptied, behind an allow-list.

Three barriers, each of which stops most attacks by itself: Jinja's immutable sandbox without its globals,
filters and tests; an allow-list over the parsed template, without calls, macros and imports; and our own
access to fields, which reads keys of mappings and indexes of lists, never attributes of Python objects.
`expressions` bounds the computation, the size of the output and the iterations of loops.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any, Literal, NoReturn

from jinja2 import StrictUndefined, Undefined, nodes
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from typing_extensions import override

from upshot.automations.expressions.budget import BUDGET
from upshot.automations.expressions.comparisons import check_condition, compare, contains
from upshot.automations.expressions.filters import FILTERS
from upshot.automations.expressions.operators import OPERATORS, check_key, concat, iterate, slice_
from upshot.automations.expressions.slack_text import to_slack_text
from upshot.automations.expressions.template_tests import TESTS
from upshot.automations.expressions.values import describe, to_text
from upshot.suggestions import did_you_mean

#: The name of all secrets. A template must name it to use a secret, because receipts mask the named secrets.
SECRETS = "secrets"
MAX_NODES = 4_000  # a template with so many nodes takes about 0.2 s to compile, once
MAX_NESTING = 40  # Python's own compiler fails at about 100 nested brackets
MAX_NESTED_BLOCKS = 8  # Python's own compiler fails at 20

_OTHER_SPACES = "\x1f\x1e\x1d\x1c\x0b"  # blanks for `{{-` and inside braces, as a carriage return is

_MEMBERSHIP = frozenset({"in", "notin"})
_LOOP_FIELDS = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length"})

_ALLOWED_NODES: frozenset[type[nodes.Node]] = frozenset(
    {
        nodes.Template,
        nodes.Output,
        nodes.TemplateData,
        nodes.If,
        nodes.For,
        nodes.Assign,
        nodes.Name,
        nodes.Const,
        nodes.List,
        nodes.Tuple,
        nodes.Dict,
        nodes.Pair,
        nodes.Keyword,
        nodes.Getattr,
        nodes.Getitem,
        nodes.Slice,
        nodes.Filter,
        nodes.Test,
        nodes.CondExpr,
        nodes.Compare,
        nodes.Operand,
        nodes.And,
        nodes.Or,
        nodes.Not,
        nodes.Neg,
        nodes.Pos,
        nodes.Concat,
        nodes.Add,
        nodes.Sub,
        nodes.Mul,
        nodes.Div,
        nodes.FloorDiv,
        nodes.Mod,
    }
)

_CALL_ALTERNATIVES = {
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
    """A context whose fields are looked up when a template names them. A template cannot list them."""

    def start_again(self) -> None:
        """Prepare for another render of the same templates, after one that was given up."""

    def look_up(self, name: str) -> Any:
        """
        Return the value of a field.

        Raises:
            RenderError: There is no such field.
        """
        raise NotImplementedError


class TemplateNotAllowed(Exception):
    """A template contains something that is not allowed. The line is within the template, counted from 1."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line or 1  # Jinja does not know the line of some nodes


Use = Literal["condition", "text", ""]  #: true or false, a part of a text, or anything


@dataclass(frozen=True, slots=True)
class PathReference:
    """A name in a template and the fields that are looked up below it: ("steps", "gate", "outputs")."""

    parts: tuple[str, ...]
    line: int  #: within the template, counted from 1
    use: Use = ""  #: what its value must be


def secret_names(paths: Iterable[PathReference]) -> frozenset[str] | None:
    """Return the names of the secrets that paths lead to. None means that a template computes such a name."""
    names = frozenset(path.parts[1:2] for path in paths if path.parts[0] == SECRETS)
    return None if () in names else frozenset(name for (name,) in names)


def misplaced_secret(uses: str, paths: Iterable[PathReference]) -> tuple[int, str] | None:
    """Return the line and the reason if a template gives a secret to an action that sends nothing."""
    reference = next((path for path in paths if path.parts[0] == SECRETS), None)
    if reference is None:
        return None
    return reference.line, (
        f"{'.'.join(reference.parts)}: {uses!r} sends nothing to a receiver, and everyone who reads events or the "
        "registry can read what it writes; use the secret in the step that sends it"
    )


# --- access to values -----------------------------------------------------------------------------


class _Unknown(StrictUndefined):
    """A value that does not exist. Every use of it fails with its path and the nearest existing name."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        path = self._undefined_name or "a value"
        last = _LAST_KEY.fullmatch(path)
        container = self._undefined_obj
        if last is None or not isinstance(container, dict | list | tuple | str | int | float):
            return f"{path!r} is unknown" if self._undefined_hint is None else self._undefined_hint
        parent, name = last["parent"], last["name"] or last["key"]
        if isinstance(container, dict):
            if similar := _key_with_sign(name, container):
                return f"{parent!r} has no {name!r}; write {spell_key(parent, similar)}"
            suggestion = did_you_mean(name, container, list_known=False)
            return f"{parent!r} has no {name!r}{suggestion or '; if it can be missing, write `| default(…)`'}"
        if isinstance(container, list | tuple):
            return f"{parent!r} is a list and has no {name!r}; write `{parent}[0]`, or loop over it"
        alternative = _CALL_ALTERNATIVES.get(name)
        remedy = f"; write {alternative}" if alternative else ""
        return f"{parent!r} is {describe(container)} and has no {name!r}{remedy}"


#: The last key of a path as `spell_key` writes it.
_LAST_KEY = re.compile(r'(?P<parent>.+)(?:\.(?P<name>[^.\[\]]+)|\["(?P<key>.*?)"\])', re.DOTALL)
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_MAX_COMPARED_KEYS = 200


def spell_key(parent: str, key: str) -> str:
    """Return the path of a key as a template writes it: `event.data.loss`, `event.data["f1-score"]`."""
    return f"{parent}.{key}" if _IDENTIFIER.fullmatch(key) else f'{parent}["{key}"]'


def _key_with_sign(name: str, container: Iterable[str]) -> str | None:
    """Return a key such as `f1-score` or `val/loss` if the author wrote its first word, or wrote it with `_`."""
    for key in islice(map(str, container), _MAX_COMPARED_KEYS):  # a mapping that a template made has other keys, too
        starts_with_name = key.startswith((f"{name}-", f"{name}/"))
        if not _IDENTIFIER.fullmatch(key) and (starts_with_name or re.sub(r"\W", "_", key) == name):
            return key
    return None


def require_defined(*values: Any) -> None:
    """Raise UndefinedError for a value that does not exist."""
    for value in values:
        if isinstance(value, Undefined):
            str(value)  # raises UndefinedError with the message of `_Unknown`


def get_field(container: Any, key: Any, path: str) -> Any:
    """Return a field of a value. Templates have no other way to reach into values."""
    require_defined(key)
    if isinstance(container, dict):
        if isinstance(key, str) and key in container:
            return container[key]
    elif container is None or isinstance(container, Undefined):
        return container
    elif isinstance(container, list | tuple):
        if isinstance(key, int) and not isinstance(key, bool) and -len(container) <= key < len(container):
            return container[key]
    elif isinstance(container, Lookup):
        if isinstance(key, str):
            return container.look_up(key)
    elif isinstance(container, LoopContext) and key in _LOOP_FIELDS:
        return getattr(container, key)
    return _Unknown(obj=container, name=path)


def _to_text(value: Any) -> str:
    require_defined(value)
    return to_text(value)


def _bounded(function: Callable[..., Any], *, takes_unknown: bool = False) -> Callable[..., Any]:
    """Wrap a filter or test, so that unknown values fail and each use is counted."""

    @wraps(function)
    def call(value: Any, *args: Any, **options: Any) -> Any:
        if takes_unknown and isinstance(value, Undefined):
            value = None
        require_defined(value, *args, *options.values())
        BUDGET.spend(1)  # `expressions` counts the rest
        return function(value, *args, **options)

    return call


# Filters that only `instrument` puts into a template. An author cannot write these names.
_FIELD, _ITERATE, _CONCAT, _COMPARE = ":field", ":iterate", ":concat", ":compare"
_CONTAINS, _KEY, _SLICE, _CONDITION = ":contains", ":key", ":slice", ":condition"
_SLACK = ":slack"


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, containing only what `expressions` offers."""

    intercepted_binops = frozenset(OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            undefined=_Unknown, finalize=_to_text, keep_trailing_newline=True, optimized=False, cache_size=0
        )
        self.globals.clear()
        self.filters = {name: _bounded(f, takes_unknown=name == "default") for name, f in FILTERS.items()}
        self.filters |= {
            _FIELD: get_field,
            _ITERATE: _bounded(iterate),
            _CONCAT: _bounded(concat),
            _COMPARE: _bounded(compare),
            _CONDITION: _bounded(check_condition),
            _SLACK: _bounded(to_slack_text),
            _CONTAINS: _bounded(contains),
            _KEY: _bounded(check_key),
            _SLICE: _bounded(slice_),
        }
        self.tests = {name: _bounded(f) for name, f in TESTS.items()}
        self.tests |= {
            "defined": lambda value: not isinstance(value, Undefined),
            "undefined": lambda value: isinstance(value, Undefined),
        }

    @override
    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        require_defined(left, right)
        BUDGET.spend(1)
        return OPERATORS[operator](left, right)

    # An allowed template never calls these methods. They are a second barrier behind the allow-list.

    @override
    def getattr(self, obj: Any, attribute: str) -> Any:
        return get_field(obj, attribute, attribute)

    @override
    def getitem(self, obj: Any, argument: Any) -> Any:
        return get_field(obj, argument, str(argument))

    @override
    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return False

    @override
    def is_safe_callable(self, obj: Any) -> bool:
        return False


SANDBOX = _Sandbox()


def parse_text(text: str) -> nodes.Template:
    """Parse a text, and keep its carriage returns, which Jinja's lexer replaces by line feeds."""
    substitute = next((char for char in _OTHER_SPACES if char not in text), None)
    if "\r" not in text or substitute is None:
        return SANDBOX.parse(text)
    tree = SANDBOX.parse(text.replace("\r", substitute))
    for data in tree.find_all(nodes.TemplateData):
        data.data = data.data.replace(substitute, "\r")
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str):
            constant.value = constant.value.replace(substitute, "\r")
    return tree


_SIGNATURES = {
    **{("filter", name): inspect.signature(function) for name, function in FILTERS.items()},
    **{("test", name): inspect.signature(function) for name, function in TESTS.items()},
    **{("test", name): inspect.signature(lambda value: value) for name in ("defined", "undefined")},
}


# --- the allow-list -------------------------------------------------------------------------------


class TemplateInspector:
    """Walks over a parsed template, refuses what is not allowed, and collects the paths that it uses."""

    def __init__(self) -> None:
        self.paths: list[PathReference] = []
        self.assigned: set[str] = set()
        self.node_count = 0

    def walk(self, node: nodes.Node, depth: int = 0, blocks: int = 0, *, is_condition: bool = False) -> None:
        """Check a node and everything below it. Raises TemplateNotAllowed. See `instrument` for `is_condition`."""
        self.node_count += 1
        if self.node_count > MAX_NODES or depth > MAX_NESTING or blocks > MAX_NESTED_BLOCKS:
            raise TemplateNotAllowed("this template is too large or too deeply nested; simplify it", node.lineno)
        self._check(node, is_condition=is_condition)
        if is_condition:
            _check_can_be_condition(node)
        inner_blocks = blocks + isinstance(node, nodes.For | nodes.If)
        conditions = _conditions_in(node, is_condition=is_condition)
        for child in node.iter_child_nodes(exclude=conditions):
            self.walk(child, depth + 1, inner_blocks)
        for child in node.iter_child_nodes(only=conditions):
            self.walk(child, depth + 1, inner_blocks, is_condition=True)

    def _check(self, node: nodes.Node, *, is_condition: bool) -> None:
        if type(node) not in _ALLOWED_NODES:
            _refuse(node)
        if isinstance(node, nodes.Name | nodes.Getattr | nodes.Getitem):
            self._add_path(node, "condition" if is_condition else "")
        elif isinstance(node, nodes.Const):
            _check_constant(node)
        elif isinstance(node, nodes.Filter | nodes.Test):
            _check_use(node)
        elif isinstance(node, nodes.Compare):
            _check_chain(node)
        elif isinstance(node, nodes.For):
            self._add_loop(node)

    def _add_loop(self, node: nodes.For) -> None:
        if node.recursive:
            raise TemplateNotAllowed("a loop cannot be recursive", node.lineno)
        self.assigned.add("loop")

    def _add_path(self, node: nodes.Name | nodes.Getattr | nodes.Getitem, use: Use) -> None:
        if isinstance(node, nodes.Name) and node.name.startswith("_"):
            raise TemplateNotAllowed(f"{node.name!r}: names that begin with `_` cannot be used", node.lineno)
        if isinstance(node, nodes.Name) and node.ctx != "load":
            if node.name == SECRETS:
                raise TemplateNotAllowed(f"{node.name!r} cannot be another value; choose another name", node.lineno)
            self.assigned.add(node.name)
        elif parts := _parts(node):
            self.paths.append(PathReference(parts, node.lineno, use))


def _constant_key(node: nodes.Getattr | nodes.Getitem) -> Any:
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) else None


def _parts(node: nodes.Node) -> tuple[str, ...]:
    """Return the path that a node spells with constant names. It is empty for any other node."""
    if isinstance(node, nodes.Name):
        return (node.name,)
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        parent, key = _parts(node.node), _constant_key(node)
        return (*parent, key) if parent and isinstance(key, str) else ()
    return ()


def _spell(node: nodes.Node) -> str:
    """Return a path as messages show it."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return spell_key(_spell(node.node), node.attr)
    if isinstance(node, nodes.Getitem):
        key = _constant_key(node)
        if isinstance(key, str):
            return spell_key(_spell(node.node), key)
        return f"{_spell(node.node)}.{key}" if isinstance(key, int) else f"{_spell(node.node)}[…]"
    return "(…)"


#: Expressions whose value is true or false if the values of their conditions are.
_BOOLEAN_NODES = (nodes.Compare, nodes.Test, nodes.Not, nodes.And, nodes.Or, nodes.CondExpr)


def _conditions_in(node: nodes.Node, *, is_condition: bool) -> tuple[str, ...]:
    """
    Return the fields of a node whose values decide something.

    Elsewhere, `a or b` is `a` unless it is empty, so its parts are conditions only if the whole is one.
    """
    always, inherited = _CONDITION_FIELDS.get(type(node), ((), ()))
    return (*always, *inherited) if is_condition else always


_CONDITION_FIELDS: dict[type[nodes.Node], tuple[tuple[str, ...], tuple[str, ...]]] = {
    nodes.If: (("test",), ()),
    nodes.For: (("test",), ()),
    nodes.CondExpr: (("test",), ("expr1", "expr2")),
    nodes.Not: (("node",), ()),
    nodes.And: (("left",), ("right",)),
    nodes.Or: ((), ("left", "right")),
}


_NEVER_CONDITIONS = (nodes.List, nodes.Tuple, nodes.Dict, nodes.Concat, nodes.Neg, nodes.Pos)
_MAYBE_BOOLEAN_FILTERS = frozenset({"default", "first", "last", "max", "min"})


def _check_can_be_condition(node: nodes.Node) -> None:
    """Raise an error for an expression that is neither true nor false for any event."""
    is_text_or_number = isinstance(node, nodes.Const) and not isinstance(node.value, bool)
    is_converted = isinstance(node, nodes.Filter) and node.name not in _MAYBE_BOOLEAN_FILTERS
    if is_text_or_number or is_converted or isinstance(node, _NEVER_CONDITIONS):
        what = f"the result of `| {node.name}`" if isinstance(node, nodes.Filter) else "this"
        reason = f'{what} is neither true nor false; write a comparison, such as `… > 0` or `… == "yes"`'
        raise TemplateNotAllowed(reason, node.lineno)


def _check_constant(node: nodes.Const) -> None:
    if isinstance(node.value, float) and not math.isfinite(node.value):
        raise TemplateNotAllowed("this number is too large; write one below 1e308", node.lineno)


def _check_chain(node: nodes.Compare) -> None:
    if len(node.ops) > 1 and any(operand.op in _MEMBERSHIP for operand in node.ops):
        reason = "`in` cannot be part of a chain of comparisons; join two comparisons with `and`"
        raise TemplateNotAllowed(reason, node.lineno)


def _check_use(node: nodes.Filter | nodes.Test) -> None:
    kind, known = ("filter", FILTERS) if isinstance(node, nodes.Filter) else ("test", SANDBOX.tests)
    if node.name not in known:
        raise TemplateNotAllowed(f"unknown {kind} {node.name!r}{did_you_mean(node.name, known)}", node.lineno)
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise TemplateNotAllowed(f"{kind} {node.name!r}: `*` and `**` are not allowed", node.lineno)
    try:
        options = dict.fromkeys(str(option.key) for option in node.kwargs)
        _SIGNATURES[kind, node.name].bind(None, *node.args, **options)
    except TypeError as error:
        raise TemplateNotAllowed(f"{kind} {node.name!r}: {error}", node.lineno) from None


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
        alternative = _CALL_ALTERNATIVES.get(called, "a filter")
        raise TemplateNotAllowed(f"`{called}(…)`: calls are not allowed; write {alternative} instead", node.lineno)
    if isinstance(node, nodes.Pow):
        raise TemplateNotAllowed("`**` is not allowed", node.lineno)
    kind = type(node).__name__
    tag = _TAGS.get(kind, kind.lower())
    raise TemplateNotAllowed(f"`{tag}` is not allowed; templates have `if`, `for`, `set` and expressions", node.lineno)


def instrument(node: Any, *, is_condition: bool = False) -> Any:
    """
    Route what the sandbox does not intercept through our own functions: fields, loops, `~`, comparisons, conditions.

    Args:
        node: A template or an expression.
        is_condition: Whether the value of the expression decides something, so that it must be true or false.
    """
    path = _spell(node)
    conditions = _conditions_in(node, is_condition=is_condition)
    must_be_checked = is_condition and not isinstance(node, _BOOLEAN_NODES)
    body_nodes = sum(1 for _ in node.find_all(nodes.Node)) if isinstance(node, nodes.For) else 0
    for name, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            setattr(node, name, instrument(value, is_condition=name in conditions))
        elif isinstance(value, list):
            setattr(node, name, [instrument(item) if isinstance(item, nodes.Node) else item for item in value])
    instrument_type = _INSTRUMENTED.get(type(node))
    if instrument_type is not None:
        node = instrument_type(node, path)
    if must_be_checked:
        is_path = isinstance(node, nodes.Filter) and node.name == _FIELD
        return _call(_CONDITION, node, nodes.Const(path if is_path or isinstance(node, nodes.Name) else ""))
    if isinstance(node, nodes.CondExpr) and node.expr2 is None:
        nothing = nodes.Const(None)  # Jinja would use its lenient undefined value
        node.expr2 = instrument(nothing, is_condition=is_condition)
    elif isinstance(node, nodes.For):
        node.iter = _call(_ITERATE, node.iter, nodes.Const(1 + body_nodes))
    elif isinstance(node, nodes.Pair):
        node.key = _call(_KEY, node.key)
    return node


def escape_outputs(tree: nodes.Template) -> nodes.Template:
    """Escape for Slack what the expressions of a template write. Its own text is markup."""
    for output in tree.find_all(nodes.Output):
        output.nodes = [node if isinstance(node, nodes.TemplateData) else _call(_SLACK, node) for node in output.nodes]
    return tree


def _instrument_item(node: nodes.Getitem, path: str) -> nodes.Expr:
    if isinstance(node.arg, nodes.Slice):
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _call(_SLICE, node.node, *(bound or nodes.Const(None) for bound in bounds))
    return _call(_FIELD, node.node, node.arg, nodes.Const(path))


def _instrument_comparison(node: nodes.Compare, _path: str) -> nodes.Expr:
    first = node.ops[0]
    if first.op in _MEMBERSHIP:
        found = _call(_CONTAINS, first.expr, node.expr)
        return nodes.Not(found, lineno=node.lineno) if first.op == "notin" else found
    rest = [part for operand in node.ops for part in (nodes.Const(operand.op), operand.expr)]
    return _call(_COMPARE, node.expr, *rest)


def _instrument_tuple(node: nodes.Tuple, _path: str) -> nodes.Expr:
    # A tuple can be hashed, which has no bound. The targets of a loop stay a tuple.
    return nodes.List(node.items, lineno=node.lineno) if node.ctx == "load" else node


def _call(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


_INSTRUMENTED: dict[type[nodes.Node], Callable[[Any, str], nodes.Node]] = {
    nodes.Getattr: lambda node, path: _call(_FIELD, node.node, nodes.Const(node.attr), nodes.Const(path)),
    nodes.Getitem: _instrument_item,
    nodes.Concat: lambda node, _path: _call(_CONCAT, *node.nodes),
    nodes.Compare: _instrument_comparison,
    nodes.Tuple: _instrument_tuple,
}
