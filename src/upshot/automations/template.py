"""
Compile and render templates: texts and trees with `{{ … }}` in, plain data out. Only `sandbox` also uses Jinja2.

Templates are the string leaves of a tree that is already parsed, so a value cannot change the shape of
what is sent. Nothing is coerced. A leaf that is exactly `{{= expression }}` keeps the type of its value.
An unknown name or path is an error. A path below null is null, and null is empty in a text. `sandbox`
defines what a template can contain, and `filters` what it can compute.

A text is parsed and checked once. It is compiled when it is first rendered, because compiling takes a
millisecond or two. Plain paths, the most common templates, are not compiled at all.
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
    get_field,
    instrument,
    require_defined,
)
from upshot.errors import TemplateInvalid
from upshot.schema.yaml_model import is_template
from upshot.suggestions import did_you_mean

MAX_TEMPLATE_CHARS = 64 * 1024


# --- programs: a text, parsed and checked once, compiled when it is first rendered ----------------


class _Path:
    """A plain path such as `version.metadata.accuracy`."""

    __slots__ = ("_fields", "parts")

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.parts = parts
        self._fields = tuple((part, ".".join(parts[: index + 1])) for index, part in enumerate(parts) if index)

    def resolve(self, context: Mapping[str, Any]) -> Any:
        value = context[self.parts[0]]
        for key, path in self._fields:
            value = get_field(value, key, path)
        require_defined(value)
        return value


class _PlainText:
    """A text whose templates are plain paths."""

    __slots__ = ("_segments", "paths", "roots")

    def __init__(self, segments: tuple[str | _Path, ...], paths: tuple[PathReference, ...]) -> None:
        self._segments = segments
        self.paths = paths
        self.roots = frozenset(reference.parts[0] for reference in paths)

    def render(self, context: Mapping[str, Any]) -> str:
        return "".join(
            segment if isinstance(segment, str) else filters.to_text(segment.resolve(context))
            for segment in self._segments
        )

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        """Return the line of the path that made `render` fail."""
        paths = (segment for segment in self._segments if isinstance(segment, _Path))
        for path, reference in zip(paths, self.paths, strict=True):
            try:
                filters.to_text(path.resolve(context))
            except (RenderError, UndefinedError):
                return reference.line
        return 1


class _PlainExpression:
    """An expression that is a plain path."""

    __slots__ = ("_path", "paths", "roots")

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._path = _Path(parts)
        self.paths = (PathReference(parts, 1),)
        self.roots = frozenset(parts[:1])

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        return self._path.resolve(context)

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        return 1


class _Program:
    """Any other template or expression, evaluated by Jinja."""

    __slots__ = ("_parse", "_template", "paths", "roots")

    def __init__(self, parse: Callable[[], nodes.Template | nodes.Expr]) -> None:
        inspector = TemplateInspector()
        inspector.walk(parse())
        self._parse = parse  # called again when first rendered: keeping the tree would cost more memory than time
        self._template: Template | None = None
        self.paths = tuple(path for path in inspector.paths if path.parts[0] not in inspector.assigned)
        self.roots = frozenset(path.parts[0] for path in self.paths)

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
        segments, remaining = [], filters.MAX_OUTPUT_BYTES
        for segment in self._run(context)[1]:
            remaining -= len(segment)
            if remaining < 0:
                BUDGET.emit(filters.MAX_OUTPUT_BYTES + 1)  # raises RenderError
            segments.append(segment)
        return "".join(segments)

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        scope, segments = self._run(context)
        for _ in segments:
            pass
        value = scope.vars[_RESULT]
        require_defined(value)
        return value

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        """Return the line of the template that an error came from."""
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
_PYTHON_WORDS = {
    "'NoneType'": "null",
    "'str'": "string",
    "'int'": "number",
    "'float'": "number",
    "'bool'": "true or false",
    "'dict'": "mapping",
    "'list'": "list",
    " instances of": "",
}
_RESULT = "_result"  # a template cannot use names that begin with `_`
_PLAIN_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)*")
_PLAIN_PATH_IN_BRACES = re.compile(rf"\{{\{{[ \t]*({_PLAIN_PATH.pattern})[ \t]*\}}\}}")
_KEEPS_TYPE = re.compile(r"\s*\{\{=(.*)\}\}\s*", re.DOTALL)
_RESERVED_WORDS = frozenset({"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if"})


def _reword(message: str, words: Mapping[str, str]) -> str:
    for technical, plain in words.items():
        message = message.replace(technical, plain)
    return message


def _plain_parts(path: str) -> tuple[str, ...] | None:
    parts = tuple(path.split("."))
    return None if parts[0] in _RESERVED_WORDS or len(parts) > MAX_NESTING else parts


@lru_cache(maxsize=50_000)
def _text_program(text: str) -> _PlainText | _Program:
    segments: list[str | _Path] = []
    paths: list[PathReference] = []
    line = 1
    for index, segment in enumerate(_PLAIN_PATH_IN_BRACES.split(text)):
        if index % 2 == 0:
            if is_template(segment):
                break
            segments.append(segment)
            line += segment.count("\n")
        elif parts := _plain_parts(segment):
            segments.append(_Path(parts))
            paths.append(PathReference(parts, line))
        else:
            break
    else:
        return _PlainText(tuple(segments), tuple(paths))
    return _program(text, lambda: SANDBOX.parse(text))


@lru_cache(maxsize=50_000)
def _expression_program(text: str) -> _PlainExpression | _Program:
    stripped = text.strip()
    if _PLAIN_PATH.fullmatch(stripped) and (parts := _plain_parts(stripped)):
        return _PlainExpression(parts)
    if stripped.startswith(("{{", "${{")):
        raise TemplateNotAllowed("this is already an expression; write it without the braces", 1)
    return _program(text, lambda: _parse_expression(text))


def _parse_expression(text: str) -> nodes.Expr:
    parser = Parser(SANDBOX, text, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        token = parser.stream.current
        raise TemplateSyntaxError(f"{token.value!r} was not expected here", token.lineno)
    return expression


def _program(text: str, parse: Callable[[], nodes.Template | nodes.Expr]) -> _Program:
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateNotAllowed(f"a template can have at most {MAX_TEMPLATE_CHARS // 1024} KB", 1)
    try:
        return _Program(parse)
    except TemplateSyntaxError as error:
        reason = _reword((error.message or "this cannot be parsed").rstrip("."), _JINJA_WORDS)
        raise TemplateNotAllowed(reason, error.lineno) from None
    except RecursionError:
        raise TemplateNotAllowed("this template is too deeply nested; simplify it", 1) from None
    except (ValueError, OverflowError) as error:  # such as a number with five thousand digits
        raise TemplateNotAllowed(f"this cannot be parsed: {error}", 1) from None


# --- compiled templates ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """The file, the line and the path in the tree at which a template begins, for messages."""

    path: str
    line: int | None
    leaf: str = ""  #: dotted path in the tree; empty if the template is a whole file

    def invalid(self, reason: str, line_within: int) -> TemplateInvalid:
        """Return an error at a line of the template, counted from 1."""
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
    """A program and where its text begins."""

    def __init__(self, compile_program: Callable[[str], P], text: str, location: SourceLocation) -> None:
        try:
            self._program = compile_program(text)
        except TemplateNotAllowed as error:
            raise location.invalid(error.reason, error.line) from None
        self._location = location

    @property
    def paths(self) -> tuple[PathReference, ...]:
        """The paths that it uses."""
        return self._program.paths

    def _run(self, action: Callable[[Mapping[str, Any]], Any], context: Mapping[str, Any]) -> Any:
        if not self._program.roots <= context.keys():
            unknown = next(path for path in self._program.paths if path.parts[0] not in context)
            suggestion = did_you_mean(unknown.parts[0], context, list_known=False)
            raise self._location.invalid(f"{unknown.parts[0]!r} is unknown{suggestion}", unknown.line)
        try:
            return action(context)
        except (RenderError, UndefinedError) as error:
            reason, line = str(error), self._program.failing_line(error, context)
        except Exception as error:  # noqa: BLE001 - any error while evaluating is the template's
            reason = _reword(str(error), _PYTHON_WORDS) or type(error).__name__
            line = self._program.failing_line(error, context)
        raise self._location.invalid(reason, line)


class CompiledText(_Compiled[_PlainText | _Program]):
    """A text that can contain templates."""

    def render(self, context: Mapping[str, Any]) -> str:
        """
        Render the text.

        Raises:
            TemplateInvalid: The text cannot be rendered with this context.
        """
        BUDGET.reset()
        return self.render_part(context)

    def render_part(self, context: Mapping[str, Any]) -> str:
        """Render the text as a part of something larger that shares its limits."""
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
        Return the value of the expression: plain data that keeps its type.

        Raises:
            TemplateInvalid: The expression cannot be evaluated with this context.
        """
        BUDGET.reset()
        return self.evaluate_part(context)

    def evaluate_part(self, context: Mapping[str, Any]) -> Any:
        """Evaluate the expression as a part of something larger that shares its limits."""
        return self._run(lambda context: filters.plain_copy(self._program.evaluate(context)), context)


def compile_text(text: str, *, path: str, line: int | None = 1) -> CompiledText:
    """
    Compile a text, such as a body file.

    Args:
        text: With or without templates.
        path: Its file, for messages.
        line: Line of the file on which it begins.

    Raises:
        TemplateInvalid: The text cannot be parsed, or it contains something that is not allowed.
    """
    return CompiledText(_text_program, text, SourceLocation(path, line))


def compile_expression(text: str, *, path: str, line: int | None = None) -> CompiledExpression:
    """Compile an expression, such as an `if`. Arguments and errors are those of `compile_text`."""
    return CompiledExpression(_expression_program, text, SourceLocation(path, line))


CompiledLeaf = CompiledText | CompiledExpression
LineOf = Callable[[str], int | None]


def compile_leaf(text: str, *, path: str, line: int | None, leaf: str, is_expression: bool = False) -> CompiledLeaf:
    """Compile one leaf of a tree. Arguments and errors are those of `compile_tree`."""
    location = SourceLocation(path, line, leaf)
    if is_expression:
        return CompiledExpression(_expression_program, text, location)
    typed = _KEEPS_TYPE.fullmatch(text)
    if typed and "{{=" not in typed[1]:
        return CompiledExpression(_expression_program, typed[1], location)
    if "{{=" in text:
        reason = "`{{= … }}` keeps the type of a value, so it must be the whole value; in a text, write `{{ … }}`"
        raise location.invalid(reason, 1)
    return CompiledText(_text_program, text, location)


def template_leaves(tree: Any, expressions: Collection[str] = frozenset()) -> Iterator[tuple[str, str, bool]]:
    """Yield each leaf of a tree that is a template: its dotted path, its text, and whether it is an expression."""
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
        for index, value in enumerate(tree):
            yield from _string_leaves(value, f"{leaf}.{index}")


Renderer = Callable[[Mapping[str, Any]], Any]


class CompiledTree:
    """A tree of plain data whose string leaves can be templates."""

    def __init__(self, tree: Any, render: Renderer | None) -> None:
        self._tree = tree
        self._render = render  # None: the tree contains no template

    def render(self, context: Mapping[str, Any]) -> Any:
        """
        Render the tree. Parts without templates are the original objects, not copies.

        Raises:
            TemplateInvalid: A leaf cannot be rendered with this context.
        """
        BUDGET.reset()
        return self._tree if self._render is None else self._render(context)


def compile_tree(tree: Any, *, path: str, line_of: LineOf, expressions: Collection[str] = frozenset()) -> CompiledTree:
    """
    Compile a tree, such as the `with` block of a step.

    Args:
        tree: Plain data. Keys are never templates.
        path: Its file, for messages.
        line_of: Returns the line of a leaf by its dotted path (`client-payload.model`, `blocks.0.text`).
        expressions: Top-level keys whose value is an expression, not a text. Rendering returns its result.

    Raises:
        TemplateInvalid: A template cannot be parsed, or it contains something that is not allowed.
    """

    def compile_string(text: str, leaf: str) -> Renderer | None:
        is_expression = leaf in expressions
        if not is_expression and not is_template(text):
            return None
        compiled = compile_leaf(text, path=path, line=line_of(leaf), leaf=f"with.{leaf}", is_expression=is_expression)
        return compiled.evaluate_part if isinstance(compiled, CompiledExpression) else compiled.render_part

    return CompiledTree(tree, _renderer(tree, "", compile_string))


def _renderer(tree: Any, leaf: str, compile_string: Callable[[str, str], Renderer | None]) -> Renderer | None:
    """Return a function that renders a part of a tree, or None if the part contains no template."""
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
        items = [(value, _renderer(value, f"{leaf}.{index}", compile_string)) for index, value in enumerate(tree)]
        if any(render is not None for _, render in items):
            return lambda context: [value if render is None else render(context) for value, render in items]
    return None
