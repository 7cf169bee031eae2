"""
The only door to Jinja2: text and trees with `{{ … }}` in, plain data out.

Templates are the string leaves of a tree that was already parsed, so a value can never change the
shape of what is sent. Nothing is coerced; a leaf that is exactly `{{= expression }}` keeps the
type of its value. An unknown name or path is an error; a path below null is null, and null is
empty in a text. `sandbox` says what a template may be, `filters` what it may do.

A text is parsed and checked once, and compiled when it is first rendered: compiling costs a
millisecond or two. Plain paths, which are most of what templates say, are not compiled at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.exceptions import UndefinedError
from jinja2.parser import Parser
from jinja2.runtime import Context

from upshot.automations import filters
from upshot.automations.filters import BUDGET, RenderError
from upshot.automations.sandbox import (
    MAX_NESTING,
    SANDBOX,
    PathReference,
    TemplateInspector,
    TemplateNotAllowed,
    expect_known,
    instrument,
    look_up,
    nearest,
)
from upshot.errors import TemplateInvalid
from upshot.schema.action_inputs import is_template

MAX_TEMPLATE_CHARS = 64 * 1024


# --- programs: a text, parsed and checked once, compiled when it is first rendered ----------------


class _Path:
    """A plain path such as `version.metadata.accuracy`: most of what templates say, and needs no compiling."""

    __slots__ = ("_fields", "parts")

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.parts = parts
        self._fields = tuple((part, ".".join(parts[: place + 1])) for place, part in enumerate(parts) if place)

    def look(self, context: Mapping[str, Any]) -> Any:
        value = context[self.parts[0]]
        for key, path in self._fields:
            value = look_up(value, key, path)
        expect_known(value)
        return value


class _PlainText:
    """A text whose holes are plain paths."""

    __slots__ = ("_pieces", "paths", "roots")

    def __init__(self, pieces: tuple[str | _Path, ...], paths: tuple[PathReference, ...]) -> None:
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
        self.paths = (PathReference(parts, 1),)
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
        inspection = TemplateInspector()
        inspection.walk(parse())
        self._parse = parse  # parsed again when first rendered: keeping the tree would cost more memory than time
        self._template: Template | None = None
        self.paths = tuple(used for used in inspection.paths if used.parts[0] not in inspection.assigned)
        self.roots = frozenset(used.parts[0] for used in self.paths)

    def _run(self, context: Mapping[str, Any]) -> tuple[Context, Iterator[str]]:
        if self._template is None:
            tree = instrument(self._parse())
            if isinstance(tree, nodes.Expr):  # as Jinja's own compile_expression does
                tree = nodes.Template([nodes.Assign(nodes.Name(_RESULT, "store"), tree, lineno=1)], lineno=1)
            code = SANDBOX.compile(tree)
            self._template = SANDBOX.template_class.from_code(SANDBOX, code, {})
        scope = self._template.new_context(context, shared=True)  # type: ignore[arg-type] # it is only read
        return scope, self._template.root_render_func(scope)

    def render(self, context: Mapping[str, Any]) -> str:
        pieces, room = [], filters.MAX_OUTPUT_BYTES
        for piece in self._run(context)[1]:
            room -= len(piece)
            if room < 0:
                BUDGET.emit(filters.MAX_OUTPUT_BYTES + 1)  # fails
            pieces.append(piece)
        return "".join(pieces)

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        scope, pieces = self._run(context)
        for _ in pieces:
            pass
        value = scope.vars[_RESULT]
        expect_known(value)
        return value

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        """The line of the template that a failure came from."""
        line, traceback = 1, error.__traceback__
        while traceback is not None:
            if self._template is not None and traceback.tb_frame.f_code.co_filename == "<template>":
                line = self._template.get_corresponding_lineno(traceback.tb_lineno)
            traceback = traceback.tb_next
        return line


_JINJA_WORDS = {
    "unexpected 'end of template'": "this ends where something more was expected",
    "unexpected end of template": "this ends too early",
    "end of print statement": "}}",
    "end of statement block": "%}",
}
_RESULT = "_result"  # no template can write a name that begins with `_`
_PLAIN_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)*")
_HOLE = re.compile(rf"\{{\{{[ \t]*({_PLAIN_PATH.pattern})[ \t]*\}}\}}")
_KEEPS_TYPE = re.compile(r"\s*\{\{=(.*)\}\}\s*", re.DOTALL)
_WORDS_OF_JINJA = frozenset({"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if"})


def _plain_parts(path: str) -> tuple[str, ...] | None:
    parts = tuple(path.split("."))
    return None if parts[0] in _WORDS_OF_JINJA or len(parts) > MAX_NESTING else parts


@lru_cache(maxsize=50_000)
def _text_program(text: str) -> _PlainText | _Program:
    pieces: list[str | _Path] = []
    paths: list[PathReference] = []
    line = 1
    for place, piece in enumerate(_HOLE.split(text)):
        if place % 2 == 0:
            if is_template(piece):
                break
            pieces.append(piece)
            line += piece.count("\n")
        elif parts := _plain_parts(piece):
            pieces.append(_Path(parts))
            paths.append(PathReference(parts, line))
        else:
            break
    else:
        return _PlainText(tuple(pieces), tuple(paths))
    return _program(text, lambda: SANDBOX.parse(text))


@lru_cache(maxsize=50_000)
def _expression_program(text: str) -> _PlainExpression | _Program:
    stripped = text.strip()
    if _PLAIN_PATH.fullmatch(stripped) and (parts := _plain_parts(stripped)):
        return _PlainExpression(parts)
    if stripped.startswith(("{{", "${{")):
        raise TemplateNotAllowed("this is an expression already; write it without the braces", 1)
    return _program(text, lambda: _parse_expression(text))


def _parse_expression(text: str) -> nodes.Expr:
    parser = Parser(SANDBOX, text, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        found = parser.stream.current
        raise TemplateSyntaxError(f"{found.value!r} does not belong here", found.lineno)
    return expression


def _program(text: str, parse: Callable[[], nodes.Template | nodes.Expr]) -> _Program:
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateNotAllowed(f"a template has at most {MAX_TEMPLATE_CHARS // 1024} KB", 1)
    try:
        return _Program(parse)
    except TemplateSyntaxError as error:
        reason = (error.message or "this cannot be read").rstrip(".")
        for jinja, plain in _JINJA_WORDS.items():
            reason = reason.replace(jinja, plain)
        raise TemplateNotAllowed(reason, error.lineno) from None
    except RecursionError:
        raise TemplateNotAllowed("this template is too deeply nested; take a simpler one", 1) from None
    except (ValueError, OverflowError) as error:  # a number of five thousand digits, for one
        raise TemplateNotAllowed(f"this cannot be read: {error}", 1) from None


# --- what the loader and the engine use -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where a template stands, for messages."""

    path: str
    line: int | None  #: of its first line
    leaf: str = ""  #: dotted path in its tree

    def invalid(self, reason: str, line_within: int) -> TemplateInvalid:
        line = None if self.line is None else self.line + line_within - 1
        return TemplateInvalid(self.path, line, f"{self.leaf}: {reason}" if self.leaf else reason)


class _Checked(Protocol):
    @property
    def paths(self) -> tuple[PathReference, ...]: ...
    @property
    def roots(self) -> frozenset[str]: ...
    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int: ...


P = TypeVar("P", bound=_Checked)


class _Compiled(Generic[P]):
    """A program at its place."""

    def __init__(self, make: Callable[[str], P], text: str, place: SourceLocation) -> None:
        try:
            self._program = make(text)
        except TemplateNotAllowed as fault:
            raise place.invalid(fault.reason, fault.line) from None
        self._place = place

    @property
    def paths(self) -> tuple[PathReference, ...]:
        """The paths that it uses."""
        return self._program.paths

    def _run(self, action: Callable[[Mapping[str, Any]], Any], context: Mapping[str, Any]) -> Any:
        if not self._program.roots <= context.keys():
            used = next(used for used in self._program.paths if used.parts[0] not in context)
            raise self._place.invalid(f"{used.parts[0]!r} is unknown{nearest(used.parts[0], context)}", used.line)
        try:
            return action(context)
        except (RenderError, UndefinedError) as error:
            raise self._invalid(str(error), error, context) from None
        except Exception as error:  # noqa: BLE001 - whatever a template does to data, it is the template's fault
            raise self._invalid(_plain_words(error), error, context) from None

    def _invalid(self, reason: str, error: Exception, context: Mapping[str, Any]) -> TemplateInvalid:
        return self._place.invalid(reason, self._program.failing_line(error, context))


class CompiledText(_Compiled[_PlainText | _Program]):
    """A text with templates in it."""

    def render(self, context: Mapping[str, Any]) -> str:
        """
        Fill it in.

        Raises:
            TemplateInvalid: It cannot be rendered with this context; place, finding and remedy.
        """
        BUDGET.reset()
        return self.render_part(context)

    def render_part(self, context: Mapping[str, Any]) -> str:
        """Fill it in as a part of something that shares the limits."""
        text: str = self._run(self._render_and_count, context)
        return text

    def _render_and_count(self, context: Mapping[str, Any]) -> str:
        text = self._program.render(context)
        BUDGET.emit(len(text.encode()))
        return text


class CompiledExpression(_Compiled[_PlainExpression | _Program]):
    """One expression."""

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        """
        Give its value, plain data of its own type.

        Raises:
            TemplateInvalid: It cannot be evaluated with this context; place, finding and remedy.
        """
        BUDGET.reset()
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
    return CompiledText(_text_program, text, SourceLocation(path, line))


def compile_expression(text: str, *, path: str, line: int | None = None) -> CompiledExpression:
    """Compile an expression, such as an `if`; arguments and errors as `compile_text`."""
    return CompiledExpression(_expression_program, text, SourceLocation(path, line))


Leaf = CompiledText | CompiledExpression
LineOf = Callable[[str], int | None]


def compile_leaf(text: str, *, path: str, line: int | None, leaf: str, is_expression: bool = False) -> Leaf:
    """Compile one leaf of a tree; arguments and errors as `compile_tree`."""
    place = SourceLocation(path, line, leaf)
    if is_expression:
        return CompiledExpression(_expression_program, text, place)
    typed = _KEEPS_TYPE.fullmatch(text)
    if typed and "{{=" not in typed[1]:
        return CompiledExpression(_expression_program, typed[1], place)
    if "{{=" in text:
        raise place.invalid(
            "`{{= … }}` keeps the type of a value, so it must stand alone; in a text write `{{ … }}`", 1
        )
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
        BUDGET.reset()
        return self._tree if self._render is None else self._render(context)


def compile_tree(tree: Any, *, path: str, line_of: LineOf, expressions: Collection[str] = frozenset()) -> CompiledTree:
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
        compiled = compile_leaf(text, path=path, line=line_of(leaf), leaf=f"with.{leaf}", is_expression=is_expression)
        return compiled.evaluate_part if isinstance(compiled, CompiledExpression) else compiled.render_part

    return CompiledTree(tree, _renderer(tree, "", compile_string))


def _renderer(tree: Any, leaf: str, compile_string: Callable[[str, str], Renderer | None]) -> Renderer | None:
    """What renders a part of a tree; None when there is no template in it."""
    if isinstance(tree, str):
        return compile_string(tree, leaf)
    if isinstance(tree, Mapping):
        below = {
            key: _renderer(value, f"{leaf}.{key}" if leaf else str(key), compile_string) for key, value in tree.items()
        }
        fixed = dict(tree)
        changing = [(key, render) for key, render in below.items() if render is not None]
        return (lambda context: fixed | {key: render(context) for key, render in changing}) if changing else None
    if isinstance(tree, list | tuple):
        members = [(value, _renderer(value, f"{leaf}.{place}", compile_string)) for place, value in enumerate(tree)]
        if any(render is not None for _, render in members):
            return lambda context: [value if render is None else render(context) for value, render in members]
    return None
