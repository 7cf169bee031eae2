"""The catalog: the actions that a step can use, ours and those of entry point group `upshot.actions`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

from upshot.actions.add_alias import AddAlias
from upshot.actions.add_tag import AddTag
from upshot.actions.egress_rules import EgressRules
from upshot.actions.emit import Emit
from upshot.actions.find_version import FindVersion
from upshot.actions.github_dispatch import GithubDispatch
from upshot.actions.inputs import Finding, not_usable
from upshot.actions.launch import Launch
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.actions.require import Require
from upshot.actions.slack import Slack
from upshot.actions.webhook import Webhook
from upshot.schema.queues import JobsConfig

GROUP = "upshot.actions"  #: each entry point's name is the action's; it loads a class or function that makes one


class _UnvalidatedInputs(BaseModel):
    model_config = ConfigDict(extra="allow")


class BrokenAction:
    """
    Stands in the catalog for an installed action that cannot be loaded.

    So the other actions work, and whoever uses this one reads why it does not; `upshot doctor` lists them.
    """

    with_record = _UnvalidatedInputs
    expressions: frozenset[str] = frozenset()

    def __init__(self, uses: str, finding: str) -> None:
        self.uses = uses
        self.finding = finding  #: what is wrong and with which package

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Why it cannot be used."""
        yield "", self.finding

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Nothing can be done with it."""
        raise not_usable(self.finding)


def load_catalog(rules: EgressRules, book: JobsConfig | None = None) -> Mapping[str, Action]:
    """
    All actions by the name that YAML uses.

    Args:
        rules: URLs that stand in automations are checked against these when they are loaded.
        book: And jobs against these queues; None: those that there are without an operator's file.
    """
    check_url = rules.check_url
    built_in: tuple[Action, ...] = (
        Webhook(check_url),
        GithubDispatch(check_url),
        Slack(check_url),
        Require(),
        FindVersion(),
        AddAlias(),
        AddTag(),
        Emit(),
        Launch(book or JobsConfig()),
    )
    installed = {point.name: _load(point) for point in entry_points(group=GROUP)}
    return installed | {action.uses: action for action in built_in}


def _load(point: EntryPoint) -> Action:
    package = point.dist.name if point.dist else point.value
    try:
        action: Action = point.load()()
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything, and must not take us down
        why = f"{type(error).__name__}: {error}"
        return BrokenAction(point.name, f"action {point.name!r} of {package} cannot be loaded: {why}")
    promised = ("uses", "with_record", "expressions", "check", "perform")
    if lacking := [name for name in promised if not hasattr(action, name)]:
        return BrokenAction(point.name, f"action {point.name!r} of {package} lacks {', '.join(lacking)}")
    if action.uses != point.name:
        finding = f"action {point.name!r} of {package} calls itself {action.uses!r}; the two names must be the same"
        return BrokenAction(point.name, finding)
    return action
