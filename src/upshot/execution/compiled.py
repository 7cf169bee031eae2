"""Compiled automations. Each revision is compiled once and cached while it is in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from upshot.actions.protocol import Action
from upshot.automations.sandbox import secret_names
from upshot.automations.template import (
    CompiledCondition,
    CompiledText,
    CompiledTree,
    compile_condition,
    compile_text,
    compile_tree,
)
from upshot.domain.automation import Automation, Step
from upshot.errors import ConfigError
from upshot.ids import RevisionId
from upshot.ports.executions import RevisionStore

MAX_CACHED_REVISIONS = 20_000  # a few KB each


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step with its action and its compiled templates."""

    step: Step
    action: Action
    tree: CompiledTree
    condition: CompiledCondition | None
    body: CompiledText | None


@dataclass(frozen=True, slots=True)
class CompiledAutomation:
    """One revision of an automation, with its compiled steps by id."""

    automation: Automation
    steps: Mapping[str, CompiledStep]
    secret_names: frozenset[str] | None  #: names of the secrets that its steps use; None if a template computes a name

    def prepare(self) -> None:
        """Compile its templates now, instead of when they are first rendered."""
        for step in self.steps.values():
            for compiled in (step.tree, step.condition, step.body):
                if compiled is not None:
                    compiled.prepare()


def compile_automation(automation: Automation, actions: Mapping[str, Action]) -> CompiledAutomation:
    """
    Look up the actions of an automation and compile its templates.

    Raises:
        ConfigError: An action is not installed here, or a template is no longer allowed.
    """
    steps = {step.id: _compile_step(automation, step, actions) for step in (*automation.steps, *automation.on_failure)}
    paths = (
        path
        for step in steps.values()
        for compiled in (step.tree, step.condition, step.body)
        if compiled is not None
        for path in compiled.paths
    )
    return CompiledAutomation(automation, steps, secret_names(paths))


def _compile_step(automation: Automation, step: Step, actions: Mapping[str, Action]) -> CompiledStep:
    action = actions.get(step.uses)
    if action is None:
        raise ConfigError(
            f"{automation.path}:{step.line}: action {step.uses!r} is not installed on this worker; install the "
            "package that provides it, or start the worker that has it"
        )

    def line_of(leaf: str) -> int | None:
        return step.lines.get(leaf, step.line) or None  # 0 in a stored revision, whose line numbers are unknown

    body_file = step.with_.get("body-file")
    return CompiledStep(
        step=step,
        action=action,
        tree=compile_tree(
            step.with_,
            path=automation.path,
            line_of=line_of,
            expressions=action.expressions,
            slack_texts=_slack_texts(action, step),
        ),
        condition=compile_condition(step.condition, path=automation.path, line=step.line or None)
        if step.condition
        else None,
        body=compile_text(automation.body_files[body_file], path=body_file) if body_file else None,
    )


def _slack_texts(action: Action, step: Step) -> frozenset[str] | None:
    find_slack_texts = getattr(action, "slack_texts", None)  # only actions that post to Slack have the attribute
    return None if find_slack_texts is None else find_slack_texts(step.with_)


class RevisionCache:
    """
    Finds the revision that an execution was admitted with, even if the file has changed since.

    Args:
        actions: The catalog.
        revisions: Stores every revision.
        load_revision: Builds an automation from a stored revision: name, document, body files, path.
    """

    def __init__(
        self,
        actions: Mapping[str, Action],
        revisions: RevisionStore,
        load_revision: Callable[[str, Mapping[str, object], Mapping[str, str], str], Automation],
    ) -> None:
        self._actions = actions
        self._revisions = revisions
        self._load_revision = load_revision
        self._compiled: OrderedDict[tuple[str, RevisionId], CompiledAutomation] = OrderedDict()

    def get(self, name: str, revision_id: RevisionId) -> CompiledAutomation | None:
        """Return a revision that is compiled already, or None if it has to be loaded."""
        return self._compiled.get((name, revision_id))

    def get_or_compile(self, automation: Automation) -> CompiledAutomation:
        """
        Return the compiled automation.

        Raises:
            ConfigError: See `compile_automation`.
        """
        key = (automation.name, automation.revision_id)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = compile_automation(automation, self._actions)
            if len(self._compiled) > MAX_CACHED_REVISIONS:
                self._compiled.popitem(last=False)
        return compiled

    def prepare(self, automations: Iterable[Automation]) -> None:
        """Compile automations before the first event. Automations that cannot be compiled report that later."""
        for automation in automations:
            with suppress(ConfigError):
                self.get_or_compile(automation).prepare()

    def load(self, name: str, revision_id: RevisionId) -> CompiledAutomation:
        """
        Read a revision from the store and compile it.

        Raises:
            ConfigError: The store does not have it, or this worker cannot compile it.
        """
        stored = self._revisions.get(name, revision_id)
        if stored is None:
            raise ConfigError(f"automation {name!r}: the database does not have revision {revision_id}")
        source, body_files, path = stored
        return self.get_or_compile(self._load_revision(name, source, body_files, path))
