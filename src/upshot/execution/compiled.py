"""Automations ready to be carried out: each revision compiled once, kept while it is in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from upshot.actions.protocol import Action
from upshot.automations.template import (
    CompiledExpression,
    CompiledText,
    CompiledTree,
    compile_expression,
    compile_text,
    compile_tree,
)
from upshot.domain.automation import Automation, Step
from upshot.errors import ConfigError
from upshot.ports.executions import RevisionStore

KEPT_REVISIONS = 20_000  # compiled lazily, a few KB each


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step with its action and its templates."""

    step: Step
    action: Action
    tree: CompiledTree
    condition: CompiledExpression | None
    body: CompiledText | None


@dataclass(frozen=True, slots=True)
class CompiledAutomation:
    """One revision of an automation, its steps by id."""

    automation: Automation
    steps: Mapping[str, CompiledStep]


def compile_automation(automation: Automation, actions: Mapping[str, Action]) -> CompiledAutomation:
    """
    Bring an automation's steps together with their actions and templates.

    Raises:
        ConfigError: An action that it uses is not installed here, or a template is not allowed any more.
    """
    return CompiledAutomation(
        automation,
        {step.id: _compile_step(automation, step, actions) for step in (*automation.steps, *automation.on_failure)},
    )


def _compile_step(automation: Automation, step: Step, actions: Mapping[str, Action]) -> CompiledStep:
    action = actions.get(step.uses)
    if action is None:
        raise ConfigError(
            f"{automation.path}:{step.line}: action {step.uses!r} is not installed on this worker; install the "
            "package that brings it, or start the worker that has it"
        )

    def line_of(leaf: str) -> int | None:
        return step.lines.get(leaf, step.line) or None  # 0 in a kept revision, whose lines are not known

    body_file = step.with_.get("body-file")
    return CompiledStep(
        step=step,
        action=action,
        tree=compile_tree(step.with_, path=automation.path, line_of=line_of, expressions=action.expressions),
        condition=compile_expression(step.condition, path=automation.path, line=step.line or None)
        if step.condition
        else None,
        body=compile_text(automation.body_files[body_file], path=body_file) if body_file else None,
    )


class RevisionCache:
    """
    Finds the revision that an execution was admitted with, though the file may have changed since.

    Args:
        actions: The catalog.
        revisions: Where all revisions are kept.
        rebuild: Makes an automation of a kept revision: name, document, body files, path.
    """

    def __init__(
        self,
        actions: Mapping[str, Action],
        revisions: RevisionStore,
        rebuild: Callable[[str, Mapping[str, object], Mapping[str, str], str], Automation],
    ) -> None:
        self._actions = actions
        self._revisions = revisions
        self._rebuild = rebuild
        self._kept: OrderedDict[tuple[str, str], CompiledAutomation] = OrderedDict()

    def get_or_compile(self, automation: Automation) -> CompiledAutomation:
        """Of an automation that is at hand; raises as `compile_automation` does."""
        key = (automation.name, automation.revision)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = compile_automation(automation, self._actions)
            if len(self._kept) > KEPT_REVISIONS:
                self._kept.popitem(last=False)
        return found

    def get(self, name: str, revision: str) -> CompiledAutomation | None:
        """Of a revision that is compiled already; None when it has to be fetched."""
        return self._kept.get((name, revision))

    def load(self, name: str, revision: str) -> CompiledAutomation:
        """
        Of a kept revision, read from the store.

        Raises:
            ConfigError: It was never kept, or cannot be carried out here.
        """
        kept = self._revisions.get(name, revision)
        if kept is None:
            raise ConfigError(f"automation {name!r}: revision {revision} is not kept in the database")
        source, body_files, path = kept
        return self.get_or_compile(self._rebuild(name, source, body_files, path))
