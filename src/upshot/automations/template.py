"""
Compile and render templates: texts and trees with `{{ … }}` in, plain data out. Only `sandbox` also uses Jinja2.

Templates are the string leaves of a tree that is already parsed, so a value cannot change the shape of
what is sent. Nothing is coerced. A leaf that is exactly `{{= expression }}` keeps the type of its value.
An unknown name or path is an error. A path below null is null, and null is empty in a text. `sandbox`
defines what a template can contain, and `filters` what it can compute.

A text is parsed and checked once. It is compiled by `prepare` or when it is first rendered, because compiling
takes a millisecond or two. Plain paths, the most common templates, are not compiled at all.

Within `BUDGET.limit`, a template that is large, not compiled yet or expensive raises TooCostly. `rendering`
then renders it elsewhere, from its RenderRequest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.exceptions import UndefinedError
from jinja2.parser import Parser
from jinja2.runtime import Context
from typing_extensions import override

from upshot.automations.expressions.budget import BUDGET, MAX_OUTPUT_BYTES, RenderError, TooCostly
from upshot.automations.expressions.comparisons import check_condition
from upshot.automations.expressions.slack_text import escape_slack_data, to_slack_text
from upshot.automations.expressions.values import plain_copy, to_text
from upshot.automations.sandbox import (
    MAX_NESTING,
    SANDBOX,
    PathReference,
    TemplateInspector,
    TemplateNotAllowed,
    escape_outputs,
    get_field,
    instrument,
    parse_text,
    require_defined,
)
from upshot.errors import TemplateInvalid
from upshot.schema.yaml_model import is_template
from upshot.suggestions import did_you_mean

MAX_TEMPLATE_CHARS = 64 * 1024
MAX_SMALL_NODES = 300  #: a larger template takes more than a few milliseconds to compile and to evaluate


# --- programs: a text, parsed and checked once, compiled when it is first rendered ----------------


class _Plain:
    """A program that is not compiled."""

    __slots__ = ()

    is_small = True

    def prepare(self) -> None:
        """Do nothing."""


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


class _PlainText(_Plain):
    """A text whose templates are plain paths."""

    __slots__ = ("_segments", "_to_text", "paths", "roots")

    def __init__(self, segments: tuple[str | _Path, ...], paths: tuple[PathReference, ...], *, escapes: bool) -> None:
        self._segments = segments
        self._to_text = to_slack_text if escapes else to_text
        self.paths = paths
        self.roots = frozenset(reference.parts[0] for reference in paths)

    def render(self, context: Mapping[str, Any]) -> str:
        return "".join(
            segment if isinstance(segment, str) else self._to_text(segment.resolve(context))
            for segment in self._segments
        )

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        """Return the line of the path that made `render` fail."""
        paths = (segment for segment in self._segments if isinstance(segment, _Path))
        for path, reference in zip(paths, self.paths, strict=True):
            try:
                to_text(path.resolve(context))
            except (RenderError, UndefinedError):
                return reference.line
        return 1


class _PlainExpression(_Plain):
    """An expression that is a plain path."""

    __slots__ = ("_is_condition", "_path", "paths", "roots")

    def __init__(self, parts: tuple[str, ...], *, is_condition: bool) -> None:
        self._path = _Path(parts)
        self._is_condition = is_condition
        self.paths = (PathReference(parts, 1, "condition" if is_condition else ""),)
        self.roots = frozenset(parts[:1])

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        value = self._path.resolve(context)
        return check_condition(value, ".".join(self._path.parts)) if self._is_condition else value

    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int:
        return 1


class _Program:
    """Any other template or expression, evaluated by Jinja."""

    __slots__ = ("_escapes", "_is_condition", "_parse", "_template", "is_small", "paths", "roots")

    def __init__(self, parse: Callable[[], nodes.Template | nodes.Expr], *, is_condition: bool, escapes: bool) -> None:
        self._escapes = escapes
        inspector = TemplateInspector()
        inspector.walk(parse(), is_condition=is_condition)
        self._is_condition = is_condition
        self.is_small = inspector.node_count <= MAX_SMALL_NODES
        self._parse = parse  # called again when first rendered: keeping the tree would cost more memory than time
        self._template: Template | None = None
        self.paths = tuple(path for path in inspector.paths if path.parts[0] not in inspector.assigned)
        self.roots = frozenset(path.parts[0] for path in self.paths)

    def prepare(self) -> None:
        """Compile the template if it is not compiled yet."""
        if self._template is None:
            parsed = self._parse()
            if self._escapes and isinstance(parsed, nodes.Template):
                parsed = escape_outputs(parsed)
            tree = instrument(parsed, is_condition=self._is_condition)
            if isinstance(tree, nodes.Expr):  # as Jinja's own compile_expression does
                tree = nodes.Template([nodes.Assign(nodes.Name(_RESULT, "store"), tree, lineno=1)], lineno=1)
            code = SANDBOX.compile(tree)
            self._template = SANDBOX.template_class.from_code(SANDBOX, code, {})

    def _run(self, context: Mapping[str, Any]) -> tuple[Context, Iterator[str]]:
        if BUDGET.is_limited and (self._template is None or not self.is_small):
            raise TooCostly
        self.prepare()
        assert self._template is not None  # noqa: S101 - it is prepared
        scope = self._template.new_context(context, shared=True)  # type: ignore[arg-type] # it is only read
        return scope, self._template.root_render_func(scope)

    def render(self, context: Mapping[str, Any]) -> str:
        segments, remaining = [], MAX_OUTPUT_BYTES
        for segment in self._run(context)[1]:
            remaining -= len(segment)
            if remaining < 0:
                BUDGET.emit(MAX_OUTPUT_BYTES + 1)  # raises RenderError
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
_PLAIN_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
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
def _text_program(text: str, *, escapes: bool = False) -> _PlainText | _Program:
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
            paths.append(PathReference(parts, line, "text"))
        else:
            break
    else:
        return _PlainText(tuple(segments), tuple(paths), escapes=escapes)
    return _program(text, lambda: parse_text(text), escapes=escapes)


def _slack_text_program(text: str) -> _PlainText | _Program:
    return _text_program(text, escapes=True)


@lru_cache(maxsize=50_000)
def _expression_program(text: str, *, is_condition: bool = False) -> _PlainExpression | _Program:
    stripped = text.strip()
    if _PLAIN_PATH.fullmatch(stripped) and (parts := _plain_parts(stripped)):
        return _PlainExpression(parts, is_condition=is_condition)
    if stripped.startswith(("{{", "${{")):
        raise TemplateNotAllowed("this is already an expression; write it without the braces", 1)
    return _program(text, lambda: _parse_expression(text), is_condition=is_condition)


def _condition_program(text: str) -> _PlainExpression | _Program:
    return _expression_program(text, is_condition=True)


def _parse_expression(text: str) -> nodes.Expr:
    parser = Parser(SANDBOX, text, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        token = parser.stream.current
        raise TemplateSyntaxError(f"{token.value!r} was not expected here", token.lineno)
    return expression


def _program(
    text: str,
    parse: Callable[[], nodes.Template | nodes.Expr],
    *,
    is_condition: bool = False,
    escapes: bool = False,
) -> _Program:
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateNotAllowed(f"a template can have at most {MAX_TEMPLATE_CHARS // 1024} KB", 1)
    try:
        return _Program(parse, is_condition=is_condition, escapes=escapes)
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
    @property
    def is_small(self) -> bool: ...
    def prepare(self) -> None: ...
    def failing_line(self, error: Exception, context: Mapping[str, Any]) -> int: ...


P = TypeVar("P", bound=_Checked)


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """Everything that another process needs to compile the same templates."""

    kind: str  #: "tree", "text", "expression" or "condition"
    source: Any
    path: str
    lines: Mapping[str, int | None]  #: by dotted path in the tree; by the empty string if it is not a tree
    expressions: frozenset[str] = frozenset()
    slack_texts: frozenset[str] | None = None

    def compile(self) -> CompiledTree | CompiledText | CompiledExpression:
        """Compile the templates."""
        if self.kind == "tree":
            return compile_tree(
                self.source,
                path=self.path,
                line_of=self.lines.get,
                expressions=self.expressions,
                slack_texts=self.slack_texts,
            )
        return _COMPILE[self.kind](self.source, path=self.path, line=self.lines[""])

    def failed(self, reason: str) -> TemplateInvalid:
        """Return an error for a request that failed as a whole."""
        return TemplateInvalid(self.path, next(iter(self.lines.values()), None), reason)


class _Compiled(Generic[P]):
    """A program and where its text begins."""

    _kind = ""

    def __init__(self, compile_program: Callable[[str], P], text: str, location: SourceLocation) -> None:
        try:
            self._program = compile_program(text)
        except TemplateNotAllowed as error:
            raise location.invalid(error.reason, error.line) from None
        self._location = location
        self._text = text

    @property
    def roots(self) -> frozenset[str]:
        """The names of the context that it uses."""
        return self._program.roots

    def prepare(self, *, large: bool = False) -> None:
        """Compile it now. A large one is compiled only if the caller wants that, because it takes up to 0.2 s."""
        if large or self._program.is_small:
            self._program.prepare()

    def request(self) -> RenderRequest:
        """Return what another process needs to render this."""
        return RenderRequest(self._kind, self._text, self._location.path, {"": self._location.line})

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
        except TooCostly:
            raise
        except (RenderError, UndefinedError) as error:
            reason, line = str(error), self._program.failing_line(error, context)
        except MemoryError as error:
            reason = "this needs too much memory; loop over less, or send the data as it is"
            line = self._program.failing_line(error, context)
        except Exception as error:  # noqa: BLE001 - any error while evaluating is the template's
            reason = _reword(str(error), _PYTHON_WORDS) or type(error).__name__
            line = self._program.failing_line(error, context)
        raise self._location.invalid(reason, line)


class CompiledText(_Compiled[_PlainText | _Program]):
    """A text that can contain templates."""

    _kind = "text"

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

    run = render

    def _render_and_count(self, context: Mapping[str, Any]) -> str:
        text = self._program.render(context)
        BUDGET.emit(len(text.encode()))
        return text


class CompiledExpression(_Compiled[_PlainExpression | _Program]):
    """One expression."""

    _kind = "expression"

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
        return self._run(self._evaluate_and_copy, context)

    def _evaluate_and_copy(self, context: Mapping[str, Any]) -> Any:
        return plain_copy(self._program.evaluate(context))

    run = evaluate


class _SlackExpression(CompiledExpression):
    """An expression whose value keeps its type. What Slack reads as markup in it is escaped."""

    def __init__(self, text: str, location: SourceLocation, *, is_text: bool) -> None:
        super().__init__(_expression_program, text, location)
        self._is_text = is_text

    @override
    def _evaluate_and_copy(self, context: Mapping[str, Any]) -> Any:
        value = escape_slack_data(self._program.evaluate(context), is_text=self._is_text)
        return plain_copy(value)


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
    """Compile an expression. Arguments and errors are those of `compile_text`."""
    return CompiledExpression(_expression_program, text, SourceLocation(path, line))


class CompiledCondition(CompiledExpression):
    """An expression that is true or false. Any other value is an error."""

    _kind = "condition"


def compile_condition(text: str, *, path: str, line: int | None = None) -> CompiledCondition:
    """Compile a condition, such as an `if`. Arguments and errors are those of `compile_text`."""
    return CompiledCondition(_condition_program, text, SourceLocation(path, line))


_COMPILE: Mapping[str, Callable[..., CompiledText | CompiledExpression]] = {
    "text": compile_text,
    "expression": compile_expression,
    "condition": compile_condition,
}
CompiledLeaf = CompiledText | CompiledExpression
LineOf = Callable[[str], int | None]


def compile_leaf(
    text: str,
    *,
    path: str,
    line: int | None,
    leaf: str,
    is_expression: bool = False,
    is_slack_text: bool | None = None,
) -> CompiledLeaf:
    """
    Compile one leaf of a tree. Arguments and errors are those of `compile_tree`.

    `is_slack_text` says whether Slack reads the leaf as a text. None means that the leaf is not for Slack.
    """
    location = SourceLocation(path, line, leaf)
    if is_expression:
        return CompiledCondition(_condition_program, text, location)
    typed = _KEEPS_TYPE.fullmatch(text)
    if typed and "{{=" not in typed[1] and is_slack_text is not None:
        return _SlackExpression(typed[1], location, is_text=is_slack_text)
    if typed and "{{=" not in typed[1]:
        return CompiledExpression(_expression_program, typed[1], location)
    if "{{=" in text:
        reason = "`{{= … }}` keeps the type of a value, so it must be the whole value; in a text, write `{{ … }}`"
        raise location.invalid(reason, 1)
    return CompiledText(_slack_text_program if is_slack_text else _text_program, text, location)


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


RenderFunction = Callable[[Mapping[str, Any]], Any]


class CompiledTree:
    """A tree of plain data whose string leaves can be templates."""

    def __init__(self, render: RenderFunction | None, leaves: Sequence[CompiledLeaf], request: RenderRequest) -> None:
        self._render = render  # None: the tree contains no template
        self._leaves = leaves
        self._request = request

    @property
    def roots(self) -> frozenset[str]:
        """The names of the context that it uses."""
        return frozenset[str]().union(*(leaf.roots for leaf in self._leaves))

    @property
    def paths(self) -> tuple[PathReference, ...]:
        """The paths that it uses."""
        return tuple(path for leaf in self._leaves for path in leaf.paths)

    def prepare(self, *, large: bool = False) -> None:
        """Compile the leaves now. Large ones are compiled only if the caller wants that."""
        for leaf in self._leaves:
            leaf.prepare(large=large)

    def request(self) -> RenderRequest:
        """Return what another process needs to render this."""
        return self._request

    def render(self, context: Mapping[str, Any]) -> Any:
        """
        Render the tree. Parts without templates are the original objects, not copies.

        Raises:
            TemplateInvalid: A leaf cannot be rendered with this context.
        """
        BUDGET.reset()
        return self._request.source if self._render is None else self._render(context)

    run = render


def compile_tree(
    tree: Any,
    *,
    path: str,
    line_of: LineOf,
    expressions: Collection[str] = frozenset(),
    slack_texts: Collection[str] | None = None,
) -> CompiledTree:
    """
    Compile a tree, such as the `with` block of a step.

    Args:
        tree: Plain data. Keys are never templates.
        path: Its file, for messages.
        line_of: Returns the line of a leaf by its dotted path (`client-payload.model`, `blocks.0.text`).
        expressions: Top-level keys whose value is a condition, not a text. Rendering returns true or false.
        slack_texts: Dotted paths of the leaves that Slack reads as text, where values are escaped. None if the tree is
            not for Slack.

    Raises:
        TemplateInvalid: A template cannot be parsed, or it contains something that is not allowed.
    """
    leaves: list[CompiledLeaf] = []
    lines: dict[str, int | None] = {}

    def compile_string(text: str, leaf: str) -> RenderFunction | None:
        is_expression = leaf in expressions
        if not is_expression and not is_template(text):
            return None
        lines[leaf] = line = line_of(leaf)
        compiled = compile_leaf(
            text,
            path=path,
            line=line,
            leaf=f"with.{leaf}",
            is_expression=is_expression,
            is_slack_text=None if slack_texts is None else leaf in slack_texts,
        )
        leaves.append(compiled)
        return compiled.evaluate_part if isinstance(compiled, CompiledExpression) else compiled.render_part

    render = _render_function(tree, "", compile_string)
    escaped = None if slack_texts is None else frozenset(slack_texts)
    return CompiledTree(render, leaves, RenderRequest("tree", tree, path, lines, frozenset(expressions), escaped))


def _render_function(
    tree: Any, leaf: str, compile_string: Callable[[str, str], RenderFunction | None]
) -> RenderFunction | None:
    """Return a function that renders a part of a tree, or None if the part contains no template."""
    if isinstance(tree, str):
        return compile_string(tree, leaf)
    if isinstance(tree, Mapping):
        below = {
            key: _render_function(value, f"{leaf}.{key}" if leaf else str(key), compile_string)
            for key, value in tree.items()
        }
        fixed = dict(tree)
        changing = [(key, render) for key, render in below.items() if render is not None]
        return (lambda context: fixed | {key: render(context) for key, render in changing}) if changing else None
    if isinstance(tree, list | tuple):
        items = [
            (value, _render_function(value, f"{leaf}.{index}", compile_string)) for index, value in enumerate(tree)
        ]
        if any(render is not None for _, render in items):
            return lambda context: [value if render is None else render(context) for value, render in items]
    return None
