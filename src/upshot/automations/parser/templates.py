"""Check the templates and expressions of a document. Show Upshot's form of expressions from other systems."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from upshot.automations.context import WANDB_NAMES
from upshot.automations.foreign_expressions import (
    Form,
    Placeholder,
    find_placeholders,
    rewrite_expression,
    rewrite_text,
)
from upshot.automations.parser.diagnostics import Diagnostic, Diagnostics
from upshot.automations.parser.document import UNREADABLE, Invalid, YamlMapping, YamlSequence
from upshot.automations.sandbox import misplaced_secret
from upshot.automations.scope import NOT_A_TEXT, Scope
from upshot.automations.template import compile_leaf
from upshot.automations.yaml_lines import yaml_line
from upshot.errors import AutomationInvalid, TemplateInvalid
from upshot.schema.template_text import COMMENT, VALUE, Part, template_parts
from upshot.schema.yaml_model import is_template, is_typed_template
from upshot.suggestions import did_you_mean

MAX_REWRITTEN_CHARS = 10_000  #: length of a template that is searched for foreign forms

#: A path whose last key cannot be written with a dot: `version.metadata.f1-score`, `version.metadata.val/loss`.
_ODD_KEY = re.compile(
    r"(?P<string>'[^']*'|\"[^\"]*\")"
    r"|(?<![\w.])(?P<parent>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\"[^\"]*\"\])*)\.(?P<key>[A-Za-z_]\w*(?:[-/@]\w+)+)(?![\w(])"
)
_JOINTS = re.compile(r"[-/@]")


def check_template(
    text: str,
    *,
    leaf: str,
    line: int | None,
    scope: Scope,
    diagnostics: Diagnostics,
    is_expression: bool = False,
    keeps_secrets_from: str | None = None,
    show_forms: bool = True,
) -> None:
    """
    Report what is wrong with a template.

    Args:
        text: A text with templates, or an expression.
        leaf: Where it is in the document: `if`, or `with.json.model`.
        line: Line of the file on which it begins, if that is known.
        scope: The names that it can use.
        diagnostics: Receives the mistakes.
        is_expression: Whether the text is an expression without braces.
        keeps_secrets_from: The action that must not get secrets, because it sends nothing to a receiver.
        show_forms: Also report expressions of other systems that are valid here but mean something else.
    """
    if show_forms and not is_expression and (comment := comment_problem(text)):
        diagnostics.add(line and line + comment[0] - 1, f"{leaf}: {comment[1]}")
        return
    problems = _problems(
        text,
        leaf=leaf,
        line=line,
        scope=scope,
        path=diagnostics.path,
        is_expression=is_expression,
        keeps_secrets_from=keeps_secrets_from,
    )
    if not problems and not (show_forms and _may_mislead(text, scope, is_expression=is_expression)):
        return
    form = (
        None
        if len(text) > MAX_REWRITTEN_CHARS
        else _form(text, leaf=leaf, scope=scope, path=diagnostics.path, is_expression=is_expression)
    )
    if form is not None:
        diagnostics.add(problems[0].line if problems else line, f"{leaf}: {form}")
        return
    for problem in problems:
        if NOT_A_TEXT in problem.reason and diagnostics.concern(leaf):
            continue  # the schema has reported the leaf, and says which kind of value it must be
        if isinstance(problem, TemplateInvalid) and (remedy := _remedy_for_characters(text)):
            problem = TemplateInvalid(problem.path, problem.line, f"{problem.reason}; {remedy}")  # noqa: PLW2901
        diagnostics.add_error(problem)


def _may_mislead(text: str, scope: Scope, *, is_expression: bool) -> bool:
    """Return whether a valid template may have been written for another system. It is called for every template."""
    if is_expression and ("{{" in text or "${" in text):
        return True
    return _JOINTS.search(text) is not None and any(
        found["parent"] and found["parent"].partition(".")[0] in scope.names for found in _ODD_KEY.finditer(text)
    )


def _remedy_for_characters(text: str) -> str | None:
    """Return how to send characters that begin a tag or a comment."""
    if tag := _UNKNOWN_TAG.search(text):
        return f'`{{%` begins a tag; to send these characters, write `{{{{ "{{%" }}}}{tag[1][:20]}`'
    return None


def comment_problem(text: str) -> tuple[int, str] | None:
    """
    Return where a text has a `{#` that was not meant as a comment, such as a colour: its line from 1, and the
    reason.
    """
    if "{#" not in text:
        return None
    for part in template_parts(text):
        if part.kind != COMMENT or (part.is_closed and not _LIKE_A_COLOUR.match(part.text)):
            continue
        word = re.match(r"[^\s}\"']*\}?", part.text[2:])
        written = word[0] if word else ""
        reason = f"`{{#{written}` begins a comment, which is not sent; to send these characters, write "
        return text.count("\n", 0, part.start) + 1, f'{reason}`{{{{ "{{#" }}}}{written}`'
    return None


_LIKE_A_COLOUR = re.compile(r"\{\#\w[^#]{0,99}\}")
_UNKNOWN_TAG = re.compile(r"\{%(?![-+]?\s*(?:if|elif|else|endif|for|endfor|set|raw|endraw)\b)([^\n%]*)")


def _problems(
    text: str,
    *,
    leaf: str,
    line: int | None,
    scope: Scope,
    path: str,
    is_expression: bool,
    keeps_secrets_from: str | None = None,
) -> list[Diagnostic]:
    try:
        compiled = compile_leaf(text, path=path, line=line, leaf=leaf, is_expression=is_expression)
    except TemplateInvalid as error:
        return [error]
    found = list(scope.problems(compiled))
    if keeps_secrets_from is not None and (problem := misplaced_secret(keeps_secrets_from, compiled.paths)):
        found.append(problem)
    return [
        AutomationInvalid(path, line and line + line_within - 1, f"{leaf}: {reason}") for line_within, reason in found
    ]


# --- forms of other systems -----------------------------------------------------------------------


def _form(text: str, *, leaf: str, scope: Scope, path: str, is_expression: bool) -> str | None:
    """Return a message that shows Upshot's form of a template, or None if nothing in it is foreign."""
    typed = not is_expression and is_typed_template(text)
    if is_expression or typed:
        inner = (text.strip()[3:-2] if typed else text).strip()
        fixed, foreign, reason = _rewrite_expression(inner, scope)
        rewritten = f"{{{{= {fixed} }}}}" if typed else fixed
    else:
        rewritten, foreign, reason = rewrite_text(text, lambda _name: None)
        rewritten = "".join(_fix_part(part, scope) for part in template_parts(rewritten))
        foreign = foreign or (("`-`",) if rewritten != text else ())
    if not foreign:
        return None
    if not rewritten:
        return reason
    left = _problems(rewritten, leaf=leaf, line=1, scope=scope, path=path, is_expression=is_expression)
    if left and isinstance(left[0], TemplateInvalid):
        return None
    subject = " and ".join(dict.fromkeys(foreign))
    meaning = _ODD_KEY_MEANING if foreign == ("`-`",) else f"{subject} cannot be used in Upshot's expressions"
    if foreign == ("the braces",):
        meaning = "this is already an expression, without braces"
    message = f"{meaning}; write `{_shown_line(leaf, text, rewritten)}`"
    rest = [reason, *(problem.reason.removeprefix(f"{leaf}: ") for problem in left[:1])]
    return "; ".join(filter(None, (message, *rest)))


_ODD_KEY_MEANING = "a key with `-`, `/` or `@` is read as a calculation"


def _rewrite_expression(text: str, scope: Scope) -> tuple[str, tuple[str, ...], str]:
    fixed = _fix_odd_keys(text, scope)
    form = rewrite_expression(fixed) or Form(fixed, ("`-`",) if fixed != text else ())
    return form.text, form.foreign, form.reason


def _fix_part(part: Part, scope: Scope) -> str:
    return part.text.replace(part.inner, _fix_odd_keys(part.inner, scope)) if part.kind == VALUE else part.text


def _fix_odd_keys(text: str, scope: Scope) -> str:
    """Write `version.metadata.f1-score` as `version.metadata["f1-score"]`."""

    def fix(found: re.Match[str]) -> str:
        if found["string"]:
            return found[0]
        parent, key = found["parent"], found["key"]
        words = [word for word in _JOINTS.split(key)[1:] if not word.isdigit()]
        follows_path = text[found.end() : found.end() + 1] == "."
        if not words or (follows_path and words[-1] in scope.names):  # such as `version.number-previous.number`
            return found[0]
        if parent.split(".")[0] not in scope.names:
            return found[0]
        if parent in ("steps", "vars"):
            return f"{parent}.{_JOINTS.sub('_', key)}"
        return f'{parent}["{key}"]'

    return _ODD_KEY.sub(fix, _ODD_KEY.sub(fix, text))  # the second time, a key below such a key


def _name_of(name: str, scope: Scope) -> str:
    """Return Upshot's name for a name in `${…}`."""
    root = name.partition(".")[0]
    if root in scope.names:
        return name
    if name.isupper() and "." not in name:
        return f"secrets.{name}"
    similar = did_you_mean(name, WANDB_NAMES, list_known=False)
    return similar.split("'")[1] if similar else name


def _shown_line(leaf: str, text: str, rewritten: str, index: int | None = None) -> str:
    """Return a rewritten line: the line at the index, or the first. If it is the only line, return it with its key."""
    key = leaf.rpartition(".")[2]
    if leaf == "with.json" and rewritten.lstrip()[:1] == "{" and not rewritten.lstrip().startswith("{{"):
        return f"json: {' '.join(rewritten.split())}"  # JSON is YAML, and in quotes it would be one string
    if "\n" not in rewritten.strip():
        return yaml_line(key, rewritten.strip()) if key else rewritten.strip()
    before, after = text.split("\n"), rewritten.split("\n")
    if index is None:
        index = next((at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), 0)
    return after[min(index, len(after) - 1)].strip()


# --- placeholders outside of templates ------------------------------------------------------------


def may_have_placeholders(value: Any) -> bool:
    """Return whether there is a placeholder in a value or a template in a key. It is called for every step."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, dict):
        return any("{" in key or may_have_placeholders(member) for key, member in value.items())
    return isinstance(value, list) and any(may_have_placeholders(item) for item in value)


def report_placeholders(
    with_: YamlMapping, scope: Scope, diagnostics: Diagnostics, *, program_keys: Collection[str] = ()
) -> None:
    """
    Report placeholders of W&B and GitHub Actions, which would be sent as they are, and templates in keys.

    A reported value is replaced in the block, so that no other error is reported about it.

    Args:
        with_: The `with` block of a step.
        scope: The names that it can use.
        diagnostics: Receives the mistakes.
        program_keys: Keys whose values a program reads, such as a shell, for which `${NAME}` has a meaning.
    """
    environment = with_.mapping("env")
    for holder, key, leaf, line in _string_leaves(with_, "with"):
        text = holder[key]
        placeholders = list(find_placeholders(text))
        if leaf.split(".")[1] in program_keys:
            placeholders = [found for found in placeholders if _is_for_upshot(found, scope, environment)]
        if placeholders:
            line_within = text.count("\n", 0, placeholders[0].start)
            diagnostics.add(line and line + line_within, _placeholder_message(text, leaf, placeholders, scope))
            holder[key] = UNREADABLE


def placeholder_problem(text: str, leaf: str, scope: Scope) -> tuple[int, str] | None:
    """Return the first placeholder of another system in a text: its line from 1, and what is wrong with it."""
    placeholders = list(find_placeholders(text))
    if not placeholders:
        return None
    return text.count("\n", 0, placeholders[0].start) + 1, _placeholder_message(text, leaf, placeholders, scope)


def _string_leaves(value: Any, leaf: str) -> Iterator[tuple[Any, Any, str, int]]:
    if isinstance(value, YamlMapping):
        members: list[tuple[Any, int]] = [(key, value.value_lines[key]) for key in value]
    elif isinstance(value, YamlSequence):
        members = list(enumerate(value.lines))
    else:
        return
    for key, line in members:
        member = value[key]
        if isinstance(member, str) and not isinstance(member, Invalid):
            yield value, key, f"{leaf}.{key}", line
        else:
            yield from _string_leaves(member, f"{leaf}.{key}")


def _is_for_upshot(placeholder: Placeholder, scope: Scope, environment: YamlMapping) -> bool:
    """Return whether a placeholder in a command cannot be one of the shell's variables."""
    root, dot, _ = placeholder.name.partition(".")
    if placeholder.is_github or (dot and root in scope.names):
        return True
    return root in WANDB_NAMES and root not in environment


def _placeholder_message(text: str, leaf: str, placeholders: Collection[Placeholder], scope: Scope) -> str:
    names = {found.name: _name_of(found.name, scope) for found in placeholders if not found.is_github}
    rewritten, _, reason = rewrite_text(text, names.get)
    first = next(iter(placeholders))
    at = f"{leaf}: " if leaf else ""
    line = _shown_line(leaf, text, rewritten, text.count("\n", 0, first.start))
    if first.is_github:
        message = f"{at}`{first.written}` is GitHub's form, and the `$` would be sent, too; write `{line}`"
        remedy = f'for a dollar sign before a value, write `{{{{ "$" }}}}{first.written[1:]}`'
        return "; ".join(filter(None, (message, reason, remedy)))
    if names[first.name].partition(".")[0] in scope.names:
        return f"{at}`{first.written}` is W&B's form and would be sent as it is; write `{line}`"
    return (
        f"{at}`{first.written}` would be sent as it is; write `{{{{ NAME }}}}` with a name of the event, "
        f'or `{{{{ "{first.written}" }}}}` to send these characters'
    )


def report_template_keys(value: Any, leaf: str, diagnostics: Diagnostics) -> None:
    """Report keys that contain templates. Keys are sent as they are written."""
    if isinstance(value, YamlMapping):
        for key, member in value.items():
            if is_template(key) or next(find_placeholders(key), None):
                remedy = "write the whole mapping as one expression, such as `{{= {alias: version.name} }}`"
                diagnostics.add(value.key_lines[key], f"{leaf}: the key `{key}` is sent as it is written; {remedy}")
            report_template_keys(member, f"{leaf}.{key}", diagnostics)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            report_template_keys(item, f"{leaf}.{index}", diagnostics)
