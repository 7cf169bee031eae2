"""Keys, events and filters of W&B, GitHub Actions and MLflow, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from upshot.automations.foreign_expressions import regex_as_globs
from upshot.automations.parser.document import YamlMapping
from upshot.automations.yaml_lines import yaml_line, yaml_value

Remedy = Callable[[Any], str]  #: returns what to do, for the value of the key


def _says(text: str) -> Remedy:
    return lambda _value: text


def _key(name: str) -> Remedy:
    """Return a remedy that shows the same value under another key."""
    return lambda value: f"write `{yaml_line(name, value)}`"


# --- keys of an automation and of a step ----------------------------------------------------------


def _run(value: Any) -> str:
    command = yaml_value(["sh", "-c", value if isinstance(value, str) else "…"])
    return f"a command runs in a container: write `uses: launch` with `with: {{image: IMAGE, command: {command}}}`"


def _env(value: Any) -> str:
    if found := re.search(r"\bsecrets\.\w+", str(value)):
        return f"leave it out: the inputs under `with` name a secret themselves, as `{{{{ {found[0]} }}}}`"
    return (
        f"write `{yaml_line('vars', value)}` at the top of the automation, and use it as `{{{{ vars.NAME }}}}`; the "
        "variables of a container are `env` under the `with` of a `launch` step"
    )


def _queue(value: Any) -> str:
    queue = value if isinstance(value, str) else "NAME"
    return f"where a job runs is the queue of its step: write `uses: launch` with `with: {{queue: {queue}, …}}`"


def _minutes(value: Any) -> str:
    return f"write `timeout: {value}m`" if isinstance(value, int | float) else "write `timeout: 10m`"


def _attempts(value: Any) -> str:
    return f"write `retry: {{attempts: {value if isinstance(value, int) else 5}}}`"


def _jobs(value: Any) -> str:
    steps = next((job["steps"] for job in value.values() if "steps" in job), None) if _holds_mappings(value) else None
    actions = " and ".join(dict.fromkeys(str(step["uses"]) for step in steps or () if _has(step, "uses")))
    moved = f" (here with {actions})" if actions else ""
    return (
        "an automation has no jobs: write their `steps` directly under the automation"
        f"{moved}, as `steps: [{{uses: …, with: …}}]`; a step with `uses: launch` runs a container"
    )


def _holds_mappings(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, Mapping) for item in value.values())


def _has(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


_NEEDS = _says("leave it out: steps run in order, and later steps can use `steps.ID.outputs`")
_STRATEGY = _says("there is no matrix: write one step for each case")
_BOTH: Mapping[str, Remedy] = {
    "env": _env,
    "environment": _env,
    "needs": _NEEDS,
    "depends-on": _NEEDS,
    "depends_on": _NEEDS,
    "runs-on": _queue,
    "strategy": _STRATEGY,
    "matrix": _STRATEGY,
    "run": _run,
    "permissions": _says('leave it out: a step names its own token, as `token: "{{ secrets.NAME }}"` under `with`'),
    "condition": _key("if"),
    "when": _key("if"),
    "timeout-minutes": _minutes,
    "container": _says("write `uses: launch` with `image` under `with`"),
    "services": _says("a `launch` step runs one container; start others outside of Upshot"),
    "secrets": _says("leave it out: a template names each secret as `{{ secrets.NAME }}`"),
}

#: By key of the automation.
AUTOMATION_KEYS: Mapping[str, Remedy] = {
    **_BOTH,
    "jobs": _jobs,
    "job": _jobs,
    "run-name": _key("description"),
    "timeout-minutes": lambda value: f"each step has its own: {_minutes(value)} there",
    "title": _key("name"),
    "defaults": _says("leave it out: each step has its own `with`, `timeout` and `retry`"),
    "inputs": _says("the data of a custom event is `event.data`; write `on: {custom: {name: NAME}}`"),
    "outputs": _says("leave it out: every step has outputs, which later steps use as `steps.ID.outputs`"),
    "schedule": lambda value: _schedule(value, "nightly"),
    "trigger": _key("on"),
    "triggers": _key("on"),
    "events": _key("on"),
    "event": _key("on"),
    "filter": _key("if"),
    "action": _says("write `steps:` with `- uses: …`"),
    "actions": _says("write `steps:` with `- uses: …`"),
    "then": _says("write `steps:` with `- uses: …`"),
    "scope": _says("write the registry and the collection as filters: `on: {alias-added: {collection: NAME}}`"),
    "variables": _key("vars"),
}

#: By key of a step.
STEP_KEYS: Mapping[str, Remedy] = {
    **_BOTH,
    "shell": _says("write the shell into `command`, as `[bash, -c, …]`, under the `with` of a `launch` step"),
    "working-directory": lambda value: f"write `{yaml_line('workdir', value)}` under the `with` of a `launch` step",
    "action": _key("uses"),
    "type": _key("uses"),
    "inputs": _key("with"),
    "args": _key("with"),
    "params": _key("with"),
    "parameters": _key("with"),
    "config": _key("with"),
    "retries": _attempts,
    "max-attempts": _attempts,
    "title": _key("name"),
    "description": _key("name"),
}

# --- inputs of actions ----------------------------------------------------------------------------


def _bearer(value: Any) -> str:
    return f"write `headers: {{Authorization: {yaml_value(f'Bearer {value}', in_flow=True)}}}`"


_BESIDE_WITH = ("if", "timeout", "retry", "id", "name", "continue-on-error", "uses", "overtaken")
_JSON = _key("json")
_TEXT = _key("text")

#: By action, then by input.
INPUTS: Mapping[str, Mapping[str, Remedy]] = {
    "webhook": {
        "body": _JSON,
        "payload": _JSON,
        "data": _JSON,
        "content": _JSON,
        "endpoint": _key("url"),
        "uri": _key("url"),
        "href": _key("url"),
        "address": _key("url"),
        "webhook": _key("url"),
        "verb": _key("method"),
        "http-method": _key("method"),
        "token": _bearer,
        "auth": _bearer,
        "bearer": _bearer,
        "access-token": _bearer,
        "secret": _key("signing-secret"),
        "template": _key("body-file"),
        "file": _key("body-file"),
    },
    "slack": {
        "message": _TEXT,
        "msg": _TEXT,
        "body": _TEXT,
        "content": _TEXT,
        "payload": _key("blocks"),
        "url": _key("webhook"),
        "webhook-url": _key("webhook"),
        "webhook_url": _key("webhook"),
        "slack-bot-token": _key("token"),
        "channel-id": _key("channel"),
    },
    "github-dispatch": {
        "repo": _key("repository"),
        "payload": _key("client-payload"),
        "data": _key("client-payload"),
        "inputs": _key("client-payload"),
        "github-token": _key("token"),
        "event": _key("event-type"),
        "type": _key("event-type"),
        "workflow": _says("every workflow that answers `repository_dispatch` with this `event-type` is started"),
        "ref": _says("leave it out: GitHub runs the workflow of the default branch"),
    },
    "launch": {
        "run": lambda value: f"write `{yaml_line('command', ['sh', '-c', value])}`",
        "script": lambda value: f"write `{yaml_line('command', ['sh', '-c', value])}`",
        "cmd": _key("command"),
        "entrypoint": _key("command"),
        "environment": _key("env"),
        "variables": _key("env"),
        "volumes": _key("mounts"),
        "working-directory": _key("workdir"),
        "runs-on": _key("queue"),
    },
    "require": {name: _key("that") for name in ("condition", "when", "expression", "test", "assert")}
    | {name: _key("otherwise") for name in ("message", "reason", "else", "error")},
    "emit": {"event": _key("name"), "type": _key("name"), "payload": _key("data"), "body": _key("data")},
    "find-version": {"alias": _key("version"), "name": _key("collection")},
}


def automation_remedy(mapping: YamlMapping) -> Callable[[str], str | None]:
    """Return what to say about an unknown key of an automation."""
    return lambda key: _remedy(AUTOMATION_KEYS.get(key), mapping, key)


def step_remedy(mapping: YamlMapping) -> Callable[[str], str | None]:
    """Return what to say about an unknown key of a step."""
    return lambda key: _remedy(STEP_KEYS.get(key), mapping, key)


def input_remedy(uses: str, with_: YamlMapping) -> Callable[[str], str | None]:
    """Return what to say about an unknown key under `with`."""

    def find(key: str) -> str | None:
        if remedy := _remedy(INPUTS.get(uses, {}).get(key), with_, key):
            return remedy
        return "unknown key; write it beside `with`, not under it" if key in with_ and key in _BESIDE_WITH else None

    return find


def _remedy(remedy: Remedy | None, mapping: YamlMapping, key: str) -> str | None:
    return f"unknown key; {remedy(mapping[key])}" if remedy and key in mapping else None


# --- actions --------------------------------------------------------------------------------------

_MARKETPLACE = re.compile(r"[\w.-]+/[\w./-]+@.+")


def action_remedy(uses: str) -> str | None:
    """Return what to write instead of an action of GitHub."""
    if uses.startswith("docker://"):
        image = uses.removeprefix("docker://")
        return f"write `uses: launch` with `with: {{image: {yaml_value(image, in_flow=True)}}}`"
    if _MARKETPLACE.fullmatch(uses) or uses.startswith("./"):
        return "GitHub's actions run on GitHub only; start a workflow that uses it with `uses: github-dispatch`"
    return None


# --- events ---------------------------------------------------------------------------------------


def _custom(name: str) -> str:
    return f"`on: {{custom: {{name: {name}}}}}`"


def _schedule(value: Any, name: str) -> str:
    entry = value[0] if isinstance(value, list) and value else value
    cron = entry.get("cron") if isinstance(entry, Mapping) else entry
    when = cron if isinstance(cron, str) else "0 3 * * *"
    return (
        f"Upshot has no clock of its own: write {_custom(name)}, and let cron emit the event: "
        f"`{when} upshot events emit {name}`"
    )


def _dispatch(value: Any, name: str) -> str:
    types = value.get("types") if isinstance(value, Mapping) else None
    first = types[0] if isinstance(types, list) and types else types
    name = first if isinstance(first, str) else name
    return f"write {_custom(name)}, and emit the event with `upshot events emit {name} KEY=VALUE`"


def _kind(kind: str) -> Callable[[Any, str], str]:
    return lambda _value, _name: f"write `on: {kind}`"


def _says_kind(text: str) -> Callable[[Any, str], str]:
    return lambda _value, _name: text


_FROM_CI = _says_kind(
    "Upshot answers events of the registry: write `on: version-linked`, or let the workflow run "
    "`upshot events emit NAME` and write `on: {custom: {name: NAME}}`"
)
_WANDB_KINDS: Mapping[str, str] = {
    "linkartifact": "version-linked",
    "onlinkartifact": "version-linked",
    "unlinkartifact": "version-unlinked",
    "onunlinkartifact": "version-unlinked",
    "createartifact": "artifact-created",
    "oncreateartifact": "artifact-created",
    "addartifactalias": "alias-added",
    "onaddartifactalias": "alias-added",
    "addartifacttag": "{tag-added: {on: version}}",
    "onaddartifacttag": "{tag-added: {on: version}}",
    "addcollectiontag": "{tag-added: {on: collection}}",
    "onaddcollectiontag": "{tag-added: {on: collection}}",
    "removeartifacttag": "{tag-removed: {on: version}}",
    "removecollectiontag": "{tag-removed: {on: collection}}",
    "modelversioncreated": "version-linked",
    "modelversionaliascreated": "alias-added",
    "modelversionaliasdeleted": "alias-removed",
    "modelversiontagset": "{tag-added: {on: version}}",
    "modelversiontagdeleted": "{tag-removed: {on: version}}",
    "registeredmodelcreated": "collection-created",
    "newversion": "version-linked",
    "versioncreated": "version-linked",
    "versionadded": "version-linked",
    "aliasmoved": "alias-added",
    "aliasset": "alias-added",
}
_KINDS: Mapping[str, Callable[[Any, str], str]] = {
    "schedule": _schedule,
    "cron": _schedule,
    "workflow_dispatch": _dispatch,
    "repository_dispatch": _dispatch,
    "workflow_call": _dispatch,
    "webhook": _dispatch,
    "manual": _dispatch,
    "workflow_run": _FROM_CI,
    "push": _FROM_CI,
    "pull_request": _FROM_CI,
    "pull_request_target": _FROM_CI,
    "release": _FROM_CI,
    "deployment": _FROM_CI,
    "check_run": _FROM_CI,
}


_KEYS_BESIDE_ON = frozenset({"name", "description", "if", "vars", "enabled", "steps", "on-failure"})


def kind_remedy(word: str, value: Any, automation_name: Any) -> str | None:
    """Return what to write instead of an event of another system."""
    if word in _KEYS_BESIDE_ON:
        return f"`{word}` is a key of the automation; write it beside `on`, not under it"
    name = automation_name if isinstance(automation_name, str) and automation_name else "nightly"
    if remedy := _KINDS.get(word.replace("-", "_")):
        return remedy(value, name)
    kind = _WANDB_KINDS.get(re.sub(r"[^a-z]", "", word.lower()))
    return f"write `on: {kind}`" if kind else None


# --- filters --------------------------------------------------------------------------------------

_REGEX = re.compile(r"/.+/[gimsuy]*|\^.*|.*\$|(.*[-_)\]])?\.[*+].*|.*\\.*")


# Also in `json_schema`, for editors.
ALTERNATIVES_PATTERN = (
    r"(?![^\\^$\[]*[\\^$\[])"
    r"(?:[^|]*[^|\s][^|]*(?:\|[^|]*[^|\s][^|]*)+|[^{}()|]*\{[^{}]+,[^{}]*\}[^{}()|]*)"
)
_ALTERNATIVES = re.compile(ALTERNATIVES_PATTERN)
_CHOICE = re.compile(
    r"(?P<before>[^{}()|]*)(?:\{(?P<braces>[^{}]+,[^{}]*)\}|\((?P<bars>[^()]+\|[^()]*)\))(?P<after>[^{}()|]*)"
)


def _alternatives(pattern: str) -> list[str]:
    """Return the patterns that `a|b`, `(a|b)-c` or `{a,b}-c` stands for elsewhere."""
    if choice := _CHOICE.fullmatch(pattern):
        words = choice["braces"].split(",") if choice["braces"] else choice["bars"].split("|")
        found = [f"{choice['before']}{word.strip()}{choice['after']}" for word in words]
    else:
        found = [word.strip() for word in pattern.split("|")]
    return [word for word in found if word]


def pattern_problem(pattern: str, name: str) -> str | None:
    """Return what to write instead of an exclusion or regular expression of another system in a filter."""
    if pattern[:1] == "!" and len(pattern) > 1:
        shown = yaml_line(name, {"not": pattern[1:]}) if name != "not" else yaml_value(pattern[1:])
        return f"`!` excludes nothing here; write `{shown}`"
    if excluded := re.fullmatch(r"not +(\S.*)", pattern):
        shown = yaml_line(name, {"not": excluded[1]}) if name != "not" else yaml_value(excluded[1])
        return f"`not` inside of a pattern excludes nothing; write `{shown}`"
    if not _REGEX.fullmatch(pattern) and _ALTERNATIVES.fullmatch(pattern):
        literal = re.sub(r"([|{])", r"[\1]", pattern)
        shown = yaml_line(name, _alternatives(pattern))
        return f"a filter has no alternatives; write a list, `{shown}`, or `{literal}` if a name has these characters"
    if not _REGEX.fullmatch(pattern):
        return None
    globs = regex_as_globs(pattern)
    shown = yaml_line(name, (globs[0] if len(globs) == 1 else list(globs)) if globs else "fraud-*")
    example = "write" if globs else "such as"
    return f"looks like a regular expression, and a filter is a name or a glob; {example} `{shown}`"
