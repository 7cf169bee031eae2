"""
Find the expressions of W&B, GitHub Actions, JavaScript and Python, and rewrite them in Upshot's form.

It is called only for an invalid text, so that the message can show the line that the author meant. The result is a
suggestion. The caller compiles it before showing it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from upshot.schema.template_text import GITHUB, TAG, VALUE, WANDB, Part, template_parts

MAX_CHARS = 2000  #: length of an expression that is rewritten
MAX_NESTING = 30

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|`[^`$]*`)
    | (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<operator>===|=~|!==|==|!=|<>|<=|>=|&&|\|\||\?\?|\?\.|//|[-+*/%~<>=!?:|.,()\[\]{}&])
    )""",
    re.VERBOSE,
)

# How tightly an expression binds, from the loosest.
_CHOICE, _OR, _AND, _NOT, _COMPARE, _ADD, _MULTIPLY, _UNARY, _ATOM = range(9)


class Form(NamedTuple):
    """An expression in Upshot's form."""

    text: str  #: empty if the expression has no such form, and `reason` says what to do
    foreign: tuple[str, ...]  #: the parts that were rewritten: `&&`, `contains(…)`
    reason: str = ""  #: what else the author has to do


class _Part(NamedTuple):
    text: str
    binds: int = _ATOM


class _CannotRewriteError(Exception):
    """The text is not an expression of a language that is known here."""


#: Paths of GitHub Actions, and Upshot's path for the same value.
_PATHS: Mapping[str, str] = {
    "github.actor": "actor.name",
    "github.triggering_actor": "actor.name",
    "github.event_name": "event.kind",
    "github.event.client_payload": "event.data",
    "github.event.inputs": "event.data",
    "github.event": "event",
    "github.run_id": "event.id",
    "github.run_attempt": "delivery.attempt",
    "github.workflow": "automation.name",
    "inputs": "event.data",
    "env": "vars",
    "needs": "steps",
}
_STEP_RESULTS = re.compile(r"(steps\.[A-Za-z_][A-Za-z0-9_]*)\.(?:outcome|conclusion|result)")
_STATES = {"success": "succeeded", "failure": "failed", "cancelled": "cancelled", "skipped": "skipped"}
_WORDS = {
    "null": "none",
    "NULL": "none",
    "Null": "none",
    "nil": "none",
    "undefined": "none",
    "TRUE": "true",
    "FALSE": "false",
    "AND": "and",
    "OR": "or",
    "NOT": "not",
}
_COMPARISONS = {"===": "==", "!==": "!=", "=": "==", "<>": "!="}
_REASONS: Mapping[str, str] = {
    "always": "`always()`: a step under `steps` runs unless an earlier step has failed; write it under `on-failure`, "
    "too, so that it also runs then",
    "cancelled": "`cancelled()`: no step runs after an execution is cancelled; leave it out",
    "failure": "`failure()`: move the step to `on-failure`, whose steps run after a step has failed",
    "success": "`success()` is not needed: a step runs only if the steps before it have succeeded",
    "hashFiles": "`hashFiles(…)`: Upshot has no working copy; use `version.digest`",
}


def _filter(name: str, count: int = 1) -> Callable[..., _Part]:
    """Return a function that applies a filter to its first argument, with the others as its arguments."""

    def write(value: _Part, *args: _Part) -> _Part:
        listed = f"({', '.join(arg.text for arg in args)})" if args else ""
        return _Part(f"{_inside(value, _ATOM)} | {name}{listed}", _UNARY)

    return write if count else lambda *values: write(_list(values))


def _get(container: _Part, key: _Part, default: _Part = _Part("none")) -> _Part:  # noqa: B008 - it is immutable
    return _FUNCTIONS["default"](_Part(f"{_inside(container, _ATOM)}[{key.text}]"), default)


def _list(values: tuple[_Part, ...]) -> _Part:
    return values[0] if len(values) == 1 else _Part(f"[{', '.join(value.text for value in values)}]")


def _contains(container: _Part, item: _Part) -> _Part:
    return _Part(f"{_inside(item, _ADD)} in {_inside(container, _ADD)}", _COMPARE)


def _test(name: str) -> Callable[..., _Part]:
    return lambda value, *args: _Part(
        f"{_inside(value, _ATOM)} is {name}" + (f"({args[0].text})" if args else ""), _COMPARE
    )


def _format(template: _Part, *args: _Part) -> _Part:
    """Join the parts of GitHub's `format('{0} of {1}', a, b)`."""
    pieces: list[str] = []
    for index, piece in enumerate(re.split(r"\{(\d*)\}", template.text[1:-1])):
        if index % 2:
            number = int(piece) if piece else index // 2
            if number >= len(args):
                raise _CannotRewriteError
            pieces.append(_inside(args[number], _MULTIPLY))
        elif piece:
            pieces.append(f'"{piece}"')
    return _Part(" ~ ".join(pieces) or '""', _ADD)


def _same(value: _Part, *_: _Part) -> _Part:
    return value


def _from_json(value: _Part) -> _Part:
    """Return a value as it is, because it is data already. Parse a literal string with JSON as an expression."""
    if value.text[:1] not in "'\"" or value.binds < _ATOM:
        return value
    try:
        json.loads(value.text[1:-1])
    except ValueError:
        raise _CannotRewriteError from None
    return _Part(value.text[1:-1].replace("null", "none"))


_NOW = _Part("event.time")

#: What a function does, by its name without its module, in lower case. A method gets its object first.
_FUNCTIONS: Mapping[str, Callable[..., _Part]] = {
    "abs": _filter("abs"),
    "contains": _contains,
    "includes": _contains,
    "startswith": _test("startingwith"),
    "endswith": _test("endingwith"),
    "defined": _test("defined"),
    "exists": _test("defined"),
    "format": _format,
    "join": _filter("join"),
    "tojson": _filter("tojson"),
    "dumps": _filter("tojson"),
    "stringify": _filter("tojson"),
    "fromjson": _from_json,
    "parse": _from_json,
    "boolean": _same,
    "bool": _same,
    "len": _filter("length"),
    "length": _filter("length"),
    "count": _filter("length"),
    "size": _filter("length"),
    "str": _filter("string"),
    "string": _filter("string"),
    "tostring": _filter("string"),
    "int": _filter("int"),
    "parseint": _filter("int"),
    "float": _filter("float"),
    "number": _filter("float"),
    "parsefloat": _filter("float"),
    "round": _filter("round"),
    "tofixed": _filter("round"),
    "max": _filter("max", 0),
    "min": _filter("min", 0),
    "sum": _filter("sum"),
    "sorted": _filter("sort"),
    "list": _filter("list"),
    "keys": _filter("list"),
    "items": _filter("items"),
    "get": _get,
    "default": _filter("default"),
    "coalesce": _filter("default"),
    "lower": _filter("lower"),
    "tolower": _filter("lower"),
    "tolowercase": _filter("lower"),
    "upper": _filter("upper"),
    "toupper": _filter("upper"),
    "touppercase": _filter("upper"),
    "title": _filter("title"),
    "capitalize": _filter("title"),
    "trim": _filter("trim"),
    "strip": _filter("trim"),
    "split": _filter("split"),
    "replace": _filter("replace"),
    "replaceall": _filter("replace"),
    "encodeuricomponent": _filter("urlencode"),
    "urlencode": _filter("urlencode"),
    "now": lambda *_: _NOW,
    "utcnow": lambda *_: _NOW,
    "today": lambda *_: _NOW,
}
_MODULES = frozenset({"Date", "JSON", "Math", "datetime", "json", "math", "Number", "String"})
_TIME_FUNCTIONS = frozenset({"now", "utcnow", "today"})


def _inside(part: _Part, binds: int) -> str:
    return part.text if part.binds >= binds else f"({part.text})"


class _Rewriter:
    """A parser of expressions in any of the languages, which writes Upshot's form while it reads."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._position = 0
        self._depth = 0
        self.foreign: dict[str, None] = {}
        self.reasons: dict[str, None] = {}

    def rewrite(self) -> _Part | None:
        part = self._choice()
        if self._peek() is not None:
            raise _CannotRewriteError
        return part

    # --- tokens -----------------------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> str | None:
        index = self._position + ahead
        return self._tokens[index] if index < len(self._tokens) else None

    def _take(self) -> str:
        token = self._peek()
        if token is None:
            raise _CannotRewriteError
        self._position += 1
        return token

    def _accept(self, *tokens: str) -> str | None:
        if self._peek() not in tokens:
            return None
        token = self._take()
        if token in _FOREIGN_OPERATORS:
            self.foreign[f"`{token}`"] = None
        return _WORDS.get(token, token)

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise _CannotRewriteError

    # --- expressions, from the loosest to the tightest. None is a part that is always true ----------

    def _choice(self) -> _Part | None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise _CannotRewriteError
        try:
            first = self._or()
            if self._accept("?"):
                yes = self._needed(self._choice())
                self._expect(":")
                no = self._needed(self._choice())
                return _Part(f"{_inside(yes, _OR)} if {self._needed(first).text} else {no.text}", _CHOICE)
            if self._accept("if"):
                test = self._needed(self._or())
                no = self._needed(self._choice()) if self._accept("else") else _Part("none")
                return _Part(f"{self._needed(first).text} if {test.text} else {no.text}", _CHOICE)
            return first
        finally:
            self._depth -= 1

    @staticmethod
    def _needed(part: _Part | None) -> _Part:
        return _Part("true") if part is None else part

    def _or(self) -> _Part | None:
        part = self._and()
        while operator := self._accept("||", "or", "OR", "??"):
            right = self._and()
            if operator == "??":
                part = _FUNCTIONS["default"](self._needed(part), self._needed(right))
            elif part is not None:
                part = None if right is None else _Part(f"{part.text} or {_inside(right, _AND)}", _OR)
        return part

    def _and(self) -> _Part | None:
        part = self._not()
        while self._accept("&&", "and", "AND", "&"):
            right = self._not()
            if part is None or right is None:
                part = right if part is None else part
            else:
                part = _Part(f"{_inside(part, _AND)} and {_inside(right, _NOT)}", _AND)
        return part

    def _not(self) -> _Part | None:
        if self._accept("not", "NOT"):
            return _Part(f"not {_inside(self._needed(self._not()), _NOT)}", _NOT)
        return self._compare()

    def _compare(self) -> _Part | None:
        part = self._add()
        while True:
            operator = self._accept("===", "!==", "==", "!=", "<>", "<", "<=", ">", ">=", "=", "in")
            if operator is None and self._peek() == "not" and self._peek(1) == "in":
                self._position += 2
                operator = "not in"
            if operator is None and self._accept("=~"):
                pattern = self._needed(self._add())
                globs = regex_as_globs(pattern.text[1:-1]) if pattern.text[:1] in "'\"" else ()
                if len(globs) != 1:
                    raise _CannotRewriteError
                part = _Part(f'{_inside(self._needed(part), _ATOM)} is matching("{globs[0]}")', _COMPARE)
                continue
            if operator is None:
                return part
            part = self._comparison(self._needed(part), _COMPARISONS.get(operator, operator))

    def _comparison(self, left: _Part, operator: str) -> _Part:
        is_undefined = self._peek() == "undefined"
        right = self._needed(self._add())
        if is_undefined and operator in ("==", "!="):
            return _test("undefined" if operator == "==" else "defined")(left)
        if left.text.startswith("steps.") and left.text.endswith(".state") and right.text[:1] in "'\"":
            right = _Part(f'"{_STATES.get(right.text[1:-1], right.text[1:-1])}"')
        return _Part(f"{_inside(left, _ADD)} {operator} {_inside(right, _ADD)}", _COMPARE)

    def _add(self) -> _Part | None:
        part = self._multiply()
        while operator := self._accept("+", "-", "~"):
            right = self._needed(self._multiply())
            part = _Part(f"{_inside(self._needed(part), _ADD)} {operator} {_inside(right, _MULTIPLY)}", _ADD)
        return part

    def _multiply(self) -> _Part | None:
        part = self._unary()
        while operator := self._accept("*", "/", "//", "%"):
            right = self._needed(self._unary())
            part = _Part(f"{_inside(self._needed(part), _MULTIPLY)} {operator} {_inside(right, _UNARY)}", _MULTIPLY)
        return part

    def _unary(self) -> _Part | None:
        if self._peek() == "!" and self._peek(1) in ("cancelled", "failure") and self._peek(2) == "(":
            self._position += 4  # the same as GitHub's `success()`
            self.foreign[f"`!{self._tokens[self._position - 3]}()`"] = None
            self.reasons[_REASONS["success"]] = None
            return None
        if self._accept("!"):
            return _Part(f"not {_inside(self._needed(self._unary()), _UNARY)}", _NOT)
        if self._accept("-"):
            return _Part(f"-{_inside(self._needed(self._unary()), _UNARY)}", _UNARY)
        return self._postfix()

    def _postfix(self) -> _Part | None:
        part = self._primary()
        while True:
            if self._accept(".", "?."):
                name = self._take()
                if not name.isidentifier():
                    raise _CannotRewriteError
                if self._peek() == "(":
                    part = self._call(name, self._needed(part))
                else:
                    part = self._path(f"{_inside(self._needed(part), _ATOM)}.{name}")
            elif self._accept("["):
                key = self._needed(self._choice())
                self._expect("]")
                part = _Part(f"{_inside(self._needed(part), _ATOM)}[{key.text}]")
            elif self._accept("|"):
                name = self._take()
                args = self._arguments() if self._peek() == "(" else ()
                part = _filter(name)(self._needed(part), *args)
            elif self._accept("is"):
                negation = "not " if self._accept("not") else ""
                name = self._take()
                if name in _WORDS:
                    self.foreign[f"`{name}`"] = None
                    name = "undefined" if name == "undefined" else _WORDS[name]
                args = self._arguments() if self._peek() == "(" else ()
                part = _test(f"{negation}{name}")(self._needed(part), *args)
            else:
                return part

    def _primary(self) -> _Part | None:
        word = self._take()
        if word == "(":
            part = self._choice()
            self._expect(")")
            return None if part is None else _Part(f"({part.text})")
        if word == "[":
            return _Part(f"[{', '.join(part.text for part in self._listed(']'))}]")
        if word[0] in "'\"":
            return _Part(_string(word))
        if word[0] == "`":
            self.foreign["`` ` ``"] = None
            return _Part(_string(f'"{word[1:-1]}"'))
        if word[0].isdigit():
            return _Part(word)
        if not word.isidentifier():
            raise _CannotRewriteError
        if self._peek() == "(":
            return self._call(word, None)
        if word in _WORDS:
            self.foreign[f"`{word}`"] = None
            return _Part(_WORDS[word])
        return self._path(word)

    def _path(self, path: str) -> _Part:
        if path in _PATHS and not (path == "github.event" and self._peek() == "." and self._peek(1) in _PAYLOADS):
            self.foreign[f"`{path}`"] = None
            return _Part(_PATHS[path])
        if found := _STEP_RESULTS.fullmatch(path):
            self.foreign[f"`{path}`"] = None
            return _Part(f"{found[1]}.state")
        return _Part(path)

    def _call(self, name: str, receiver: _Part | None) -> _Part | None:
        args = self._arguments()
        if receiver is None and not args and name in _REASONS:
            self.foreign[f"`{name}()`"] = None
            self.reasons[_REASONS[name]] = None
            return None
        if name == "hashFiles":
            self.reasons[_REASONS[name]] = None
            return None
        write = _FUNCTIONS.get(name.replace("_", "").lower())
        if write is None:
            raise _CannotRewriteError
        self.foreign[f"`{name}(…)`" if args else f"`{name}()`"] = None
        if receiver is not None and receiver.text not in _MODULES:
            # Python's `", ".join(items)` begins with the separator; JavaScript's `items.join(", ")` does not.
            args = (*args, receiver) if name == "join" and receiver.text[0] in "'\"" else (receiver, *args)
        if name in _TIME_FUNCTIONS:
            self.reasons["templates have no clock; `event.time` is when the event happened"] = None
        try:
            return write(*args)
        except TypeError:  # another number of arguments
            raise _CannotRewriteError from None

    def _arguments(self) -> tuple[_Part, ...]:
        self._expect("(")
        return self._listed(")")

    def _listed(self, end: str) -> tuple[_Part, ...]:
        parts: list[_Part] = []
        while self._peek() != end:
            parts.append(self._needed(self._choice()))
            if self._peek() != end:
                self._expect(",")
        self._expect(end)
        return tuple(parts)


_FOREIGN_OPERATORS = frozenset(
    {"&&", "||", "&", "!", "?", "??", "?.", "=~", "===", "!==", "<>", "=", "AND", "OR", "NOT"}
)
_PAYLOADS = frozenset({"client_payload", "inputs"})


def _tokens(text: str) -> Iterator[str]:
    position = 0
    text = text.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise _CannotRewriteError
        yield found[0].strip()
        position = found.end()


def _string(token: str) -> str:
    """Write a string in double quotes if that is possible, because YAML needs the single ones less often."""
    body = token[1:-1].replace("''", "'") if token[0] == "'" else token[1:-1]
    return f'"{body}"' if '"' not in body and "\\" not in body else token


#: An expression in the braces of Upshot, GitHub Actions (`${{ … }}`) or W&B (`${…}`).
_BRACED = r"\$?\{\{[-+=]?((?:(?!\}\}).)*?)-?\}\}|\$\{([^{}]*)\}"


#: The same, also as a whole string, or another string.
_BRACED_OR_STRING = re.compile(rf"""(['"])\s*(?:{_BRACED})\s*\1|{_BRACED}|'[^']*'|"[^"]*\"""", re.DOTALL)


def _without_braces(found: re.Match[str]) -> str:
    inner = next((group for group in found.groups()[1:] if group is not None), None)
    return found[0] if inner is None else inner.strip()


def rewrite_expression(text: str, *, in_text: bool = False) -> Form | None:
    """
    Rewrite an expression in Upshot's form.

    Args:
        text: Without braces around it, or with those of Upshot, GitHub Actions or W&B.
        in_text: Whether it is inside the braces of a text, where a string may be a placeholder that is sent as it is.

    Returns:
        None if nothing in it is foreign, or if it cannot be read.
    """
    text = text.strip()
    inner = text if in_text else _BRACED_OR_STRING.sub(_without_braces, text)
    braces = ("the braces",) if inner != text else ()
    if not inner or len(inner) > MAX_CHARS:
        return None
    try:
        rewriter = _Rewriter(inner)
        part = rewriter.rewrite()
    except _CannotRewriteError:
        return Form(inner, braces) if braces else None
    foreign = tuple(rewriter.foreign) or braces
    if not foreign and not rewriter.reasons:
        return None
    return Form("" if part is None else part.text, foreign, "; ".join(rewriter.reasons))


# --- regular expressions ----------------------------------------------------------------------------

_REGEX_TOKEN = re.compile(
    r"(?P<any>\.\*)|(?P<some>\.\+)|(?P<one>\.)|\\(?P<literal>[^A-Za-z0-9])|(?P<plain>[\w\s@:,/-])"
)
_REGEX_CHOICE = re.compile(r"(?P<before>[^()|]*)\((?:\?:)?(?P<choices>[^()]*)\)(?P<after>[^()|]*)")
_REGEX_FLAGS = "gimsuy"


def regex_as_globs(text: str) -> tuple[str, ...]:
    """Return globs that match what a simple regular expression matches. Return none for another regular expression."""
    if len(text) > 2 and text[0] == "/" and "/" in text[1:]:  # noqa: PLR2004 - two slashes and a character
        body, _, flags = text[1:].rpartition("/")
        text = body if not flags.strip(_REGEX_FLAGS) else text
    begins, ends = text.startswith("^"), text.endswith("$") and not text.endswith("\\$")
    text = text.removeprefix("^").removesuffix("$" if ends else "")
    before, after = ("*" if ends and not begins else ""), ("*" if begins and not ends else "")
    if choice := _REGEX_CHOICE.fullmatch(text):
        variants = [f"{choice['before']}{word}{choice['after']}" for word in choice["choices"].split("|")]
    else:
        variants = text.split("|")
    globs = [_as_glob(variant) for variant in variants]
    if None in globs or not all(globs):
        return ()
    return tuple(re.sub(r"\*+", "*", f"{before}{glob}{after}") for glob in globs)


def _as_glob(text: str) -> str | None:
    glob, position = "", 0
    while position < len(text):
        found = _REGEX_TOKEN.match(text, position)
        if found is None:
            return None
        wildcard = "*" if found["any"] else "?*" if found["some"] else "?" if found["one"] else ""
        glob += wildcard or found["literal"] or found["plain"]
        position = found.end()
    return glob


# --- texts with placeholders ----------------------------------------------------------------------

_CONDITION = re.compile(r"(?:if|elif)\s+(.*)", re.DOTALL)


class Placeholder(NamedTuple):
    """A placeholder of another system in a text, which Upshot would send as it is."""

    written: str
    name: str  #: what is in it: a name, or an expression of GitHub Actions
    is_github: bool  #: `${{ … }}`; otherwise `${…}`
    start: int  #: in the text


def find_placeholders(text: str) -> Iterator[Placeholder]:
    """Yield the placeholders of W&B and GitHub Actions outside of Upshot's templates."""
    if "${" not in text:
        return
    for part in template_parts(text):
        if part.kind in (GITHUB, WANDB):
            yield Placeholder(part.text, part.inner, is_github=part.kind == GITHUB, start=part.start)


def rewrite_text(text: str, name_of: Callable[[str], str | None]) -> tuple[str, tuple[str, ...], str]:
    """
    Rewrite the placeholders and templates of a text in Upshot's form.

    Args:
        text: The text.
        name_of: Returns what to write in braces for the name in a `${…}`, or None to keep it.

    Returns:
        The new text, the foreign parts that were found, and what else the author has to do.
    """
    foreign: dict[str, None] = {}
    reasons: dict[str, None] = {}

    def form_of(expression: str) -> str:
        form = rewrite_expression(expression, in_text=True)
        if form is None:
            return expression
        foreign.update(dict.fromkeys(form.foreign))
        if form.reason:
            reasons[form.reason] = None
        return form.text or expression

    def replace(part: Part) -> str:
        if part.kind == GITHUB:
            foreign["`${{ … }}`"] = None
            return f"{{{{ {form_of(part.inner)} }}}}"
        if part.kind == WANDB and (name := name_of(part.inner)) is not None:
            foreign["`${…}`"] = None
            return f"{{{{ {name} }}}}"
        condition = _CONDITION.fullmatch(part.inner) if part.kind == TAG else None
        expression = condition[1] if condition else part.inner if part.kind == VALUE else ""
        return part.text.replace(expression, form_of(expression)) if expression else part.text

    return "".join(map(replace, template_parts(text))), tuple(foreign), "; ".join(reasons)
