"""
The names that templates and `if` know: what the event carries, what the execution knows, and W&B's names.

A known name that does not apply to an event is null; a name of W&B's that does not apply is the
empty string, as it is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from upshot.automations.filters import RenderError
from upshot.automations.sandbox import Lookup, nearest
from upshot.domain.event import SNAPSHOT_NAMES, Event, EventKind
from upshot.domain.execution import StepRecord
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.ports.secrets import SecretSource

#: W&B's names, for those who come from there.
WANDB_NAMES = (
    *("event_type", "event_author", "entity_name", "project_name", "automation_name"),
    *("artifact_collection_name", "artifact_version", "artifact_version_string", "artifact_version_index"),
    *("artifact_metadata", "run_name", "run_status", "metric_name", "metric_values"),
)

#: Names that an automation's `if` knows.
EVENT_NAMES = frozenset({"event", "actor", "vars", "automation", *SNAPSHOT_NAMES, *WANDB_NAMES})

#: Names that a step knows; in `on-failure` also `failure`.
STEP_NAMES = EVENT_NAMES | {"steps", "secrets", "delivery"}

_WANDB_EVENT_TYPES = {
    EventKind.VERSION_LINKED: "LINK_ARTIFACT",
    EventKind.VERSION_UNLINKED: "UNLINK_ARTIFACT",
    EventKind.ALIAS_ADDED: "ADD_ARTIFACT_ALIAS",
    EventKind.ARTIFACT_CREATED: "CREATE_ARTIFACT",
}
_WANDB_TAG_EVENT_TYPES = {
    (EventKind.TAG_ADDED, "version"): "ADD_ARTIFACT_TAG",
    (EventKind.TAG_REMOVED, "version"): "REMOVE_ARTIFACT_TAG",
    (EventKind.TAG_ADDED, "collection"): "ADD_COLLECTION_TAG",
    (EventKind.TAG_REMOVED, "collection"): "REMOVE_COLLECTION_TAG",
}


class SecretsView(Lookup):
    """`secrets` in a template: looked up when named, and remembered, so that receipts can be masked."""

    #: `in` and loops find nothing to go over: a template names the one secret that it means.
    __iter__ = None
    __contains__ = None

    def __init__(self, source: SecretSource) -> None:
        self._source = source
        self.used: dict[str, str] = {}  #: values by name, of those that were looked up so far

    def look_up(self, name: str) -> str:
        """
        The secret's value.

        Raises:
            RenderError: There is none of this name.
        """
        if name not in self.used:
            value = self._source.get(name)
            if value is None:
                raise RenderError(
                    f"there is no secret {name!r}{nearest(name, self._source.names())}; "
                    f"set the environment variable UPSHOT_SECRET_{name}, "
                    f"or put a file {name} into the folder UPSHOT_SECRETS_DIR"
                )
            self.used[name] = value
        return self.used[name]


class DeferredSecrets(SecretsView):
    """
    `secrets` of a step whose action fills them in later: templates get marks, which only that can read.

    Args:
        source: Asked at once all the same, so that a secret that is not there is found now.
        marks: Of the job.
    """

    def __init__(self, source: SecretSource, marks: SecretPlaceholders) -> None:
        super().__init__(source)
        self._marks = marks
        self.looked_up: Counter[str] = Counter()  #: how often each was named since this was emptied

    def look_up(self, name: str) -> str:
        """The secret's mark; raises as `SecretsView.look_up` does."""
        super().look_up(name)
        self.looked_up[name] += 1
        return self._marks.mark(name)


class _EmptyStrings(dict[str, Any]):
    """`artifact_metadata` of an event without a version: every key is the empty string."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


def event_context(event: Event) -> dict[str, Any]:
    """The names that depend on the event alone; the matcher shares them between automations."""
    data = {} if event.kind is EventKind.CUSTOM else event.data
    context: dict[str, Any] = {name: data.get(name) for name in SNAPSHOT_NAMES}
    form = event.as_dict()
    context["event"] = form
    context["actor"] = form["actor"]
    return context | _wandb_context(event, context)


def _wandb_context(event: Event, context: Mapping[str, Any]) -> dict[str, Any]:
    version = context["version"] or {}
    artifact = context["artifact"] or {}
    run = context["run"] or {}
    metric = context["metric"] or {}
    on = event.data.get("on") if event.kind is not EventKind.CUSTOM else None
    return {
        "event_type": _WANDB_EVENT_TYPES.get(event.kind) or _WANDB_TAG_EVENT_TYPES.get((event.kind, str(on)), ""),
        "event_author": event.actor.name,
        "entity_name": "",  # a team of W&B's; there is none here
        "project_name": (context["project"] or {}).get("name", ""),
        "artifact_collection_name": (context["collection"] or artifact).get("name", ""),
        "artifact_version": version.get("artifact", ""),  # what was logged, where the next one is its link
        "artifact_version_string": version.get("reference", ""),
        "artifact_version_index": version.get("name", ""),
        "artifact_metadata": version["metadata"] if "metadata" in version else _EmptyStrings(),
        "run_name": run.get("name", ""),
        "run_status": run.get("state", ""),
        "metric_name": metric.get("name", ""),
        "metric_values": metric.get("values", ""),
    }


def condition_context(
    event_names: Mapping[str, Any],
    *,
    automation_name: str,
    vars: Mapping[str, Any],  # noqa: A002 - the word of the file
) -> dict[str, Any]:
    """What an automation's `if` knows: `event_context` and its own."""
    return {
        **event_names,
        "automation": {"name": automation_name},
        "automation_name": automation_name,
        "vars": vars,
    }


def build_context(
    event: Event,
    *,
    automation_name: str,
    vars: Mapping[str, Any],  # noqa: A002 - the word of the file
    steps: Iterable[StepRecord],
    secrets: SecretsView,
    delivery: Mapping[str, Any],
    failure: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Put together what the templates of a step know.

    Args:
        event: The event that is answered.
        automation_name: Name of the automation that answers.
        vars: Its `vars`.
        steps: Records of the steps so far; each is `steps.ID.outputs` and `steps.ID.state`.
        secrets: Looked up when a template names one.
        delivery: `id` and `attempt`.
        failure: `reason` and `step`, for steps of `on-failure`; null for all others.
    """
    return {
        **condition_context(event_context(event), automation_name=automation_name, vars=vars),
        "steps": {record.id: {"outputs": record.outputs, "state": record.state.value} for record in steps},
        "secrets": secrets,
        "delivery": delivery,
        "failure": failure,
    }
