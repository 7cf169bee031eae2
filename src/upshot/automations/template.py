"""
The only door to Jinja2: text and trees with `{{ … }}` in, plain data out.

Templates are the string leaves of a tree that was already parsed, so a value can never change the
shape of what is sent. Nothing is coerced; a leaf that is exactly `{{= expression }}` keeps the
type of its value. An unknown name or path is an error; a path below null is null, and null is
empty in a text.

Three walls stand around a template, each enough on its own for most attacks: Jinja's immutable
sandbox, with all its globals, filters and tests taken away; an allow-list over the parsed
template, which knows no calls, no macros, no imports; and our own access to fields, which sees
keys of mappings and places in lists, never an attribute of a Python object. `filters` bounds
what is computed, the size of what comes out, and the rounds of loops.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, NoReturn

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import UndefinedError
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from upshot.automations import filters
from upshot.automations.filters import METER, RenderError, describe
from upshot.errors import TemplateInvalid

MAX_TEMPLATE_CHARS = 64 * 1024
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


class _Fault(Exception):
    """A template is not allowed; the line counts from 1 within the template."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


@dataclass(frozen=True, slots=True)
class PathUsed:
    """A name with the fields that a template looks up below it, such as ("steps", "gate", "outputs")."""

    parts: tuple[str, ...]
    line: int  #: within the template, counted from 1


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'slack'?`, or, when nothing is near, an empty text."""
    close = difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


# --- the sandbox ----------------------------------------------------------------------------------


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


def _expect_known(*values: Any) -> None:
    for value in values:
        if isinstance(value, Undefined):
            str(value)  # raises UndefinedError, with the path and the nearest right word


def _field(holder: Any, key: Any, path: str) -> Any:
    """Look up a field; the only way in which a template reaches into a value."""
    _expect_known(key)
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
    _expect_known(value)
    return filters.text_of(value)


def _guarded(function: Callable[..., Any], *, takes_unknown: bool = False) -> Callable[..., Any]:
    """Wrap a filter or test: unknown values fail, what it handled is counted."""

    @wraps(function)
    def call(value: Any, *args: Any, **options: Any) -> Any:
        if takes_unknown and isinstance(value, Undefined):
            value = None
        _expect_known(value, *args, *options.values())
        result = function(value, *args, **options)
        METER.spend(1 + _size(value) + _size(result))
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
            _FIELD: _field,
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
        _expect_known(left, right)
        METER.spend(1)
        return filters.OPERATORS[operator](left, right)

    # What the allow-list lets through reaches none of these; they hold if it should ever fail.

    def getattr(self, obj: Any, attribute: str) -> Any:
        return _field(obj, attribute, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _field(obj, argument, str(argument))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return False

    def is_safe_callable(self, obj: Any) -> bool:
        return False


_SANDBOX = _Sandbox()
_SIGNATURES = {
    **{("filter", name): inspect.signature(function) for name, function in filters.FILTERS.items()},
    **{("test", name): inspect.signature(function) for name, function in filters.TESTS.items()},
    **{("test", name): inspect.signature(lambda value: value) for name in ("defined", "undefined")},
}


# --- the allow-list -------------------------------------------------------------------------------


class _Inspection:
    """Walks over a parsed template: refuses what is not allowed, and collects the paths that it uses."""

    def __init__(self) -> None:
        self.paths: list[PathUsed] = []
        self.assigned: set[str] = set()
        self._nodes = 0

    def walk(self, node: nodes.Node, depth: int = 0, blocks: int = 0) -> None:
        """Check a node and all below it; raises _Fault."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_NESTING or blocks > MAX_NESTED_BLOCKS:
            raise _Fault("this template is too large or too deeply nested; take a simpler one", node.lineno)
        if type(node) not in _ALLOWED_NODES:
            _refuse(node)
        if isinstance(node, nodes.Name):
            self._name(node)
        elif isinstance(node, nodes.Getattr | nodes.Getitem):
            self._field(node)
        elif isinstance(node, nodes.Filter):
            _check_use("filter", node, filters.FILTERS)
        elif isinstance(node, nodes.Test):
            _check_use("test", node, _SANDBOX.tests)
        elif isinstance(node, nodes.For):
            if node.recursive:
                raise _Fault("a loop cannot be recursive", node.lineno)
            self.assigned.add("loop")
        inside = blocks + isinstance(node, nodes.For | nodes.If)
        for child in node.iter_child_nodes():
            self.walk(child, depth + 1, inside)

    def _name(self, node: nodes.Name) -> None:
        if node.name.startswith("_"):
            raise _Fault(f"{node.name!r}: names that begin with `_` are out of reach", node.lineno)
        if node.ctx == "load":
            self.paths.append(PathUsed((node.name,), node.lineno))
        else:
            self.assigned.add(node.name)

    def _field(self, node: nodes.Getattr | nodes.Getitem) -> None:
        key = _constant_key(node)
        if isinstance(key, str) and key.startswith("_"):
            raise _Fault(f"{key!r}: names that begin with `_` are out of reach", node.lineno)
        if parts := _parts(node):
            self.paths.append(PathUsed(parts, node.lineno))


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
        raise _Fault(f"unknown {what} {node.name!r}{nearest(node.name, known) or _list_of(known)}", node.lineno)
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise _Fault(f"{what} {node.name!r}: `*` and `**` are not allowed", node.lineno)
    try:
        given: dict[str, Any] = {option.key: None for option in node.kwargs}
        _SIGNATURES[what, node.name].bind(None, *node.args, **given)
    except TypeError as error:
        raise _Fault(f"{what} {node.name!r}: {error}", node.lineno) from None


def _list_of(known: Collection[str]) -> str:
    return f"; known are {', '.join(sorted(known))}"


def _refuse(node: nodes.Node) -> NoReturn:
    if isinstance(node, nodes.Call):
        called = node.node.attr if isinstance(node.node, nodes.Getattr) else _spell(node.node)
        instead = _INSTEAD_OF_CALLS.get(called, "a filter")
        raise _Fault(f"`{called}(…)`: calls are not allowed; write {instead} instead", node.lineno)
    if isinstance(node, nodes.Pow):
        raise _Fault("`**` is not allowed", node.lineno)
    word = type(node).__name__.lower()
    raise _Fault(f"`{word}` is not allowed; templates have `if`, `for`, `set` and expressions", node.lineno)


def _instrument(node: Any) -> Any:
    """Send what the sandbox does not intercept through our own functions: fields, loops, `~`, comparisons."""
    path = _spell(node)
    rounds = sum(1 for _ in node.find_all(nodes.Node)) if isinstance(node, nodes.For) else 0
    for name, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            setattr(node, name, _instrument(value))
        elif isinstance(value, list):
            setattr(node, name, [_instrument(item) if isinstance(item, nodes.Node) else item for item in value])
    if isinstance(node, nodes.Getattr):
        return _call(_FIELD, node.node, nodes.Const(node.attr), nodes.Const(path))
    if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice):
        return _call(_FIELD, node.node, node.arg, nodes.Const(path))
    if isinstance(node, nodes.Concat):
        return _call(_CONCAT, *node.nodes)
    if isinstance(node, nodes.Operand):
        node.expr = _call(_WEIGH, node.expr)
    if isinstance(node, nodes.For):
        node.iter = _call(_EACH, node.iter, nodes.Const(1 + rounds))
    return node


def _call(name: str, value: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


# --- programs: a text, parsed and checked once, compiled when it is first rendered ----------------


class _Path:
    """A plain path such as `version.metadata.accuracy`: most of what templates say, and needs no compiling."""

    __slots__ = ("parts", "_fields")

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.parts = parts
        self._fields = tuple((part, ".".join(parts[: place + 1])) for place, part in enumerate(parts) if place)

    def look(self, context: Mapping[str, Any]) -> Any:
        value = context[self.parts[0]]
        for key, path in self._fields:
            value = _field(value, key, path)
        _expect_known(value)
        return value


class _PlainText:
    """A text whose holes are plain paths."""

    __slots__ = ("_pieces", "paths", "roots")

    def __init__(self, pieces: tuple[str | _Path, ...], paths: tuple[PathUsed, ...]) -> None:
        self._pieces = pieces
        self.paths = paths
        self.roots = frozenset(used.parts[0] for used in paths)

    def render(self, context: Mapping[str, Any]) -> str:
        return "".join(
            piece if isinstance(piece, str) else filters.text_of(piece.look(context)) for piece in self._pieces
        )

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        """The line of the path that made `render` fail."""
        paths = (piece for piece in self._pieces if isinstance(piece, _Path))
        for path, used in zip(paths, self.paths, strict=True):
            try:
                filters.text_of(path.look(context))
            except (RenderError, UndefinedError):
                return used.line
        return 1


class _PlainExpression:
    """An expression that is a plain path."""

    __slots__ = ("_path", "paths", "roots")

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._path = _Path(parts)
        self.paths = (PathUsed(parts, 1),)
        self.roots = frozenset(parts[:1])

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        return self._path.look(context)

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        """An expression of this kind has one line."""
        return 1


class _Program:
    """Anything else, for Jinja."""

    __slots__ = ("_parse", "_template", "paths", "roots")

    def __init__(self, parse: Callable[[], nodes.Template | nodes.Expr]) -> None:
        inspection = _Inspection()
        inspection.walk(parse())
        self._parse = parse  # parsed again when first rendered: keeping the tree would cost more memory than time
        self._template: Template | None = None
        self.paths = tuple(used for used in inspection.paths if used.parts[0] not in inspection.assigned)
        self.roots = frozenset(used.parts[0] for used in self.paths)

    def _run(self, context: Mapping[str, Any]) -> tuple[Context, Iterator[str]]:
        if self._template is None:
            tree = _instrument(self._parse())
            if isinstance(tree, nodes.Expr):  # as Jinja's own compile_expression does
                tree = nodes.Template([nodes.Assign(nodes.Name(_RESULT, "store"), tree, lineno=1)], lineno=1)
            code = _SANDBOX.compile(tree)
            self._template = _SANDBOX.template_class.from_code(_SANDBOX, code, {})
        scope = self._template.new_context(context, shared=True)  # type: ignore[arg-type] # it is only read
        return scope, self._template.root_render_func(scope)

    def render(self, context: Mapping[str, Any]) -> str:
        pieces, room = [], filters.MAX_OUTPUT_BYTES
        for piece in self._run(context)[1]:
            room -= len(piece)
            if room < 0:
                METER.emit(filters.MAX_OUTPUT_BYTES + 1)  # fails
            pieces.append(piece)
        return "".join(pieces)

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        scope, pieces = self._run(context)
        for _ in pieces:
            pass
        value = scope.vars[_RESULT]
        _expect_known(value)
        return value

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        """The line of the template that a failure came from."""
        line, traceback = 1, error.__traceback__
        while traceback is not None:
            if self._template is not None and traceback.tb_frame.f_code.co_filename == "<template>":
                line = self._template.get_corresponding_lineno(traceback.tb_lineno)
            traceback = traceback.tb_next
        return line


_RESULT = "_result"  # no template can write a name that begins with `_`
_PLAIN_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)*")
_HOLE = re.compile(rf"\{{\{{[ \t]*({_PLAIN_PATH.pattern})[ \t]*\}}\}}")
_MARKS = re.compile(r"\{[{%#]")
_KEEPS_TYPE = re.compile(r"\s*\{\{=(.*)\}\}\s*", re.DOTALL)
_WORDS_OF_JINJA = frozenset({"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if"})


def _plain_parts(path: str) -> tuple[str, ...] | None:
    parts = tuple(path.split("."))
    return None if parts[0] in _WORDS_OF_JINJA else parts


@lru_cache(maxsize=50_000)
def _text_program(text: str) -> _PlainText | _Program:
    pieces: list[str | _Path] = []
    paths: list[PathUsed] = []
    line = 1
    for place, piece in enumerate(_HOLE.split(text)):
        if place % 2 == 0:
            if _MARKS.search(piece):
                break
            pieces.append(piece)
            line += piece.count("\n")
        elif parts := _plain_parts(piece):
            pieces.append(_Path(parts))
            paths.append(PathUsed(parts, line))
        else:
            break
    else:
        return _PlainText(tuple(pieces), tuple(paths))
    return _program(text, lambda: _SANDBOX.parse(text))


@lru_cache(maxsize=50_000)
def _expression_program(text: str) -> _PlainExpression | _Program:
    stripped = text.strip()
    if _PLAIN_PATH.fullmatch(stripped) and (parts := _plain_parts(stripped)):
        return _PlainExpression(parts)
    if stripped.startswith(("{{", "${{")):
        raise _Fault("this is an expression already; write it without the braces", 1)
    return _program(text, lambda: _parse_expression(text))


def _parse_expression(text: str) -> nodes.Expr:
    parser = Parser(_SANDBOX, text, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        found = parser.stream.current
        raise TemplateSyntaxError(f"{found.value!r} does not belong here", found.lineno)
    return expression


def _program(text: str, parse: Callable[[], nodes.Template | nodes.Expr]) -> _Program:
    if len(text) > MAX_TEMPLATE_CHARS:
        raise _Fault(f"a template has at most {MAX_TEMPLATE_CHARS // 1024} KB", 1)
    try:
        return _Program(parse)
    except TemplateSyntaxError as error:
        reason = (error.message or "this cannot be read").rstrip(".")
        for jinja, plain in (("end of print statement", "}}"), ("end of statement block", "%}")):
            reason = reason.replace(jinja, plain)
        raise _Fault(reason, error.lineno) from None
    except RecursionError:
        raise _Fault("this template is too deeply nested; take a simpler one", 1) from None


# --- what the loader and the engine use -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a template stands, for messages."""

    path: str
    line: int | None  #: of its first line
    leaf: str = ""  #: dotted path in its tree

    def invalid(self, reason: str, line_within: int) -> TemplateInvalid:
        line = None if self.line is None else self.line + line_within - 1
        return TemplateInvalid(self.path, line, f"{self.leaf}: {reason}" if self.leaf else reason)


class _Compiled:
    """A program at its place."""

    def __init__(self, make: Callable[[str], Any], text: str, place: _Place) -> None:
        try:
            self._program = make(text)
        except _Fault as fault:
            raise place.invalid(fault.reason, fault.line) from None
        self._place = place

    @property
    def paths(self) -> tuple[PathUsed, ...]:
        """The paths that it uses."""
        return tuple(self._program.paths)

    def _run(self, action: Callable[[Mapping[str, Any]], Any], context: Mapping[str, Any]) -> Any:
        for root in self._program.roots:
            if root not in context:
                raise self._place.invalid(f"{root!r} is unknown{nearest(root, context)}", 1)
        try:
            return action(context)
        except (RenderError, UndefinedError) as error:
            raise self._invalid(str(error), error, context) from None
        except Exception as error:  # noqa: BLE001 - whatever a template does to data, it is the template's fault
            raise self._invalid(_plain_words(error), error, context) from None

    def _invalid(self, reason: str, error: Exception, context: Mapping[str, Any]) -> TemplateInvalid:
        return self._place.invalid(reason, self._program.failing_line(error, context))


class CompiledText(_Compiled):
    """A text with templates in it."""

    def render(self, context: Mapping[str, Any]) -> str:
        """
        Fill it in.

        Raises:
            TemplateInvalid: It cannot be rendered with this context; place, finding and remedy.
        """
        METER.reset()
        return self.render_part(context)

    def render_part(self, context: Mapping[str, Any]) -> str:
        """Fill it in as a part of something that shares the limits."""
        text: str = self._run(self._render_and_count, context)
        return text

    def _render_and_count(self, context: Mapping[str, Any]) -> str:
        text: str = self._program.render(context)
        METER.emit(len(text.encode()))
        return text


class CompiledExpression(_Compiled):
    """One expression."""

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        """
        Give its value, plain data of its own type.

        Raises:
            TemplateInvalid: It cannot be evaluated with this context; place, finding and remedy.
        """
        METER.reset()
        return self.evaluate_part(context)

    def evaluate_part(self, context: Mapping[str, Any]) -> Any:
        """Give its value as a part of something that shares the limits."""
        return self._run(lambda given: filters.plain_copy(self._program.evaluate(given)), context)


def _plain_words(error: Exception) -> str:
    words = str(error)
    for python, plain in _PYTHON_WORDS.items():
        words = words.replace(python, plain)
    return words or type(error).__name__


_PYTHON_WORDS = {
    "'NoneType'": "null",
    "'str'": "text",
    "'int'": "number",
    "'float'": "number",
    "'bool'": "true or false",
    "'dict'": "mapping",
    "'list'": "list",
    " instances of": "",
}


def compile_text(text: str, *, path: str, line: int | None = 1) -> CompiledText:
    """
    Compile a text, such as a body file.

    Args:
        text: With or without templates in it.
        path: File that it comes from, for messages.
        line: Line of the file on which it begins.

    Raises:
        TemplateInvalid: It cannot be read, or is not allowed.
    """
    return CompiledText(_text_program, text, _Place(path, line))


def compile_expression(text: str, *, path: str, line: int | None = None) -> CompiledExpression:
    """
    Compile an expression, such as an `if`; arguments and errors as `compile_text`.
    """
    return CompiledExpression(_expression_program, text, _Place(path, line))


Leaf = CompiledText | CompiledExpression
LineOf = Callable[[str], int | None]


def is_template(text: str) -> bool:
    """Tell whether a string leaf is a template, rather than a text that stands for itself."""
    return _MARKS.search(text) is not None


def compile_leaf(text: str, *, path: str, line: int | None, leaf: str, is_expression: bool = False) -> Leaf:
    """
    Compile one leaf of a tree; arguments and errors as `compile_tree`.
    """
    place = _Place(path, line, leaf)
    if is_expression:
        return CompiledExpression(_expression_program, text, place)
    typed = _KEEPS_TYPE.fullmatch(text)
    if typed and "{{=" not in typed[1]:
        return CompiledExpression(_expression_program, typed[1], place)
    if "{{=" in text:
        raise place.invalid("`{{= … }}` keeps the type of a value, so it must stand alone; in a text write `{{ … }}`", 1)
    return CompiledText(_text_program, text, place)


def template_leaves(tree: Any, expressions: Collection[str] = frozenset()) -> Iterator[tuple[str, str, bool]]:
    """The leaves of a tree that are templates: dotted path, text, and whether it is an expression."""
    for leaf, value in _string_leaves(tree, ""):
        is_expression = leaf in expressions
        if is_expression or is_template(value):
            yield leaf, value, is_expression


def _string_leaves(tree: Any, leaf: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield leaf, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _string_leaves(value, f"{leaf}.{key}" if leaf else str(key))
    elif isinstance(tree, list | tuple):
        for place, value in enumerate(tree):
            yield from _string_leaves(value, f"{leaf}.{place}")


Renderer = Callable[[Mapping[str, Any]], Any]


class CompiledTree:
    """A tree of plain data whose string leaves may be templates."""

    def __init__(self, tree: Any, render: Renderer | None) -> None:
        self._tree = tree
        self._render = render  # None: there is no template in it

    def render(self, context: Mapping[str, Any]) -> Any:
        """
        Fill it in; parts without templates are the given ones, not copies.

        Raises:
            TemplateInvalid: A leaf cannot be rendered with this context; place, finding and remedy.
        """
        METER.reset()
        return self._tree if self._render is None else self._render(context)


def compile_tree(
    tree: Any, *, path: str, line_of: LineOf, expressions: Collection[str] = frozenset()
) -> CompiledTree:
    """
    Compile a tree, such as the `with` block of a step.

    Args:
        tree: Plain data; keys stay as they are.
        path: File that it comes from, for messages.
        line_of: Line of a leaf, by its dotted path (`client-payload.model`, `blocks.0.text`).
        expressions: Top-level keys whose value is an expression, not a text; rendering gives its result.

    Raises:
        TemplateInvalid: A template cannot be read, or is not allowed.
    """

    def compile_string(text: str, leaf: str) -> Renderer | None:
        is_expression = leaf in expressions
        if not is_expression and not is_template(text):
            return None
        compiled = compile_leaf(text, path=path, line=line_of(leaf), leaf=leaf, is_expression=is_expression)
        return compiled.evaluate_part if isinstance(compiled, CompiledExpression) else compiled.render_part

    return CompiledTree(tree, _renderer(tree, "", compile_string))


def _renderer(tree: Any, leaf: str, compile_string: Callable[[str, str], Renderer | None]) -> Renderer | None:
    """What renders a part of a tree; None when there is no template in it."""
    if isinstance(tree, str):
        return compile_string(tree, leaf)
    if isinstance(tree, Mapping):
        below = {key: _renderer(value, f"{leaf}.{key}" if leaf else str(key), compile_string) for key, value in tree.items()}
        fixed = dict(tree)
        changing = [(key, render) for key, render in below.items() if render is not None]
        return (lambda context: fixed | {key: render(context) for key, render in changing}) if changing else None
    if isinstance(tree, list | tuple):
        members = [(value, _renderer(value, f"{leaf}.{place}", compile_string)) for place, value in enumerate(tree)]
        if any(render is not None for _, render in members):
            return lambda context: [value if render is None else render(context) for value, render in members]
    return None
