"""
The names that templates and `if` can use: what the event carries, what the execution knows, and W&B's names.

A name that does not apply to an event is null. One of W&B's names that does not apply is the empty
string, as in W&B.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import override

from upshot.automations.expressions.budget import RenderError
from upshot.automations.sandbox import Lookup
from upshot.domain.event import SNAPSHOT_NAMES, Event, EventKind
from upshot.domain.execution import StepRecord
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.ports.secrets import SecretSource
from upshot.resources.event import event_json
from upshot.suggestions import did_you_mean

#: Names that W&B's payload templates can use.
WANDB_NAMES = (
    "event_type",
    "event_author",
    "entity_name",
    "project_name",
    "automation_name",
    "artifact_collection_name",
    "artifact_version",
    "artifact_version_string",
    "artifact_version_index",
    "artifact_metadata",
    "run_name",
    "run_status",
    "metric_name",
    "metric_values",
)

#: Names that the `if` of an automation can use.
EVENT_NAMES = frozenset({"event", "actor", "vars", "automation", *SNAPSHOT_NAMES, *WANDB_NAMES})

#: Names that a step can use. Steps of `on-failure` can also use `failure`.
STEP_NAMES = EVENT_NAMES | {"steps", "secrets", "delivery"}

_WANDB_EVENT_TYPES = {
    EventKind.VERSION_LINKED: "LINK_ARTIFACT",
    EventKind.VERSION_UNLINKED: "UNLINK_ARTIFACT",
    EventKind.ALIAS_ADDED: "ADD_ARTIFACT_ALIAS",
    EventKind.ARTIFACT_CREATED: "CREATE_ARTIFACT",
    EventKind.RUN_STARTED: "RUN_STATE",
    EventKind.RUN_FINISHED: "RUN_STATE",
    EventKind.RUN_FAILED: "RUN_STATE",
}
_WANDB_TAG_EVENT_TYPES = {
    (EventKind.TAG_ADDED, "version"): "ADD_ARTIFACT_TAG",
    (EventKind.TAG_REMOVED, "version"): "REMOVE_ARTIFACT_TAG",
    (EventKind.TAG_ADDED, "collection"): "ADD_COLLECTION_TAG",
    (EventKind.TAG_REMOVED, "collection"): "REMOVE_COLLECTION_TAG",
}


_WANDB_METRIC_EVENT_TYPES = {
    "threshold": "RUN_METRIC",
    "change": "RUN_METRIC_CHANGE",
    "z-score": "RUN_METRIC_ZSCORE",
}


class SecretsView(Lookup):
    """`secrets` in a template. It looks a secret up when a template uses it, and remembers it for masking."""

    #: Loops and `in` do not work on secrets: a template must name each secret that it uses.
    __iter__ = None
    __contains__ = None

    def __init__(self, source: SecretSource) -> None:
        self._source = source
        self.used: dict[str, str] = {}  #: values by name, of the secrets looked up so far

    @override
    def look_up(self, name: str) -> str:
        if name not in self.used:
            value = self._source.get(name)
            if value is None:
                raise RenderError(
                    f"there is no secret {name!r}{did_you_mean(name, self._source.names(), list_known=False)}; "
                    f"set the environment variable UPSHOT_SECRET_{name}, "
                    f"or create the file {name} in UPSHOT_SECRETS_DIR or in `secrets` in the data directory"
                )
            self.used[name] = value
        return self.used[name]


class DeferredSecrets(SecretsView):
    """
    `secrets` of a step whose action fills them in later. Templates get a placeholder for each secret.

    Args:
        source: Also asked now, so that a missing secret is reported at once.
        placeholders: Of the job.
    """

    def __init__(self, source: SecretSource, placeholders: SecretPlaceholders) -> None:
        super().__init__(source)
        self._placeholders = placeholders
        self.lookups: Counter[str] = Counter()  #: how often each secret was used since this was cleared

    @override
    def start_again(self) -> None:
        self.lookups.clear()

    @override
    def look_up(self, name: str) -> str:
        super().look_up(name)
        self.lookups[name] += 1
        return self._placeholders.placeholder(name)


class EmptyStrings(dict[str, Any]):
    """`artifact_metadata` of an event without a version: every key is the empty string."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


def event_context(event: Event) -> dict[str, Any]:
    """Return the names that depend only on the event. All automations share them."""
    data = {} if event.kind is EventKind.CUSTOM else event.data
    context: dict[str, Any] = {name: data.get(name) for name in SNAPSHOT_NAMES}
    event_object = event_json(event)
    context["event"] = event_object
    context["actor"] = event_object["actor"]
    return context | _wandb_context(event, context)


def _wandb_context(event: Event, context: Mapping[str, Any]) -> dict[str, Any]:
    version = context["version"] or {}
    artifact = context["artifact"] or {}
    run = context["run"] or {}
    metric = context["metric"] or {}
    on = event.data.get("on") if event.kind is not EventKind.CUSTOM else None
    return {
        "event_type": _WANDB_EVENT_TYPES.get(event.kind)
        or _WANDB_TAG_EVENT_TYPES.get((event.kind, str(on)))
        or _WANDB_METRIC_EVENT_TYPES.get(metric.get("kind", ""), ""),
        "event_author": event.actor.name,
        "entity_name": "",  # a team in W&B; Upshot has no teams
        "project_name": (context["project"] or {}).get("name", ""),
        "artifact_collection_name": (context["collection"] or artifact).get("name", ""),
        "artifact_version": version.get("artifact", ""),  # what was logged; `artifact_version_string` is its link
        "artifact_version_string": _use_artifact_name(version),
        "artifact_version_index": version.get("number", ""),
        "artifact_metadata": version["metadata"] if "metadata" in version else EmptyStrings(),
        "run_name": run.get("name", ""),
        "run_status": run.get("state", ""),
        "metric_name": metric.get("name", ""),
        "metric_values": metric.get("values", ""),
    }


def _use_artifact_name(version: Mapping[str, Any]) -> str:
    """Return the name of a version as `use_artifact` takes it: `model-registry/churn:v3`, `fraud/net:v0`."""
    if not version.get("registry"):
        return str(version.get("reference", ""))
    project = "model-registry" if version["registry"] == "model" else f"wandb-registry-{version['registry']}"
    return f"{project}/{version['collection']}:{version['name']}"


def condition_context(
    event_names: Mapping[str, Any],
    *,
    automation_name: str,
    vars: Mapping[str, Any],  # noqa: A002 - the key in the YAML file
) -> dict[str, Any]:
    """Return the names that the `if` of an automation can use: those of `event_context`, and its own."""
    return {
        **event_names,
        "automation": {"name": automation_name},
        "automation_name": automation_name,
        "vars": vars,
    }


def step_context(
    event: Event,
    *,
    automation_name: str,
    vars: Mapping[str, Any],  # noqa: A002 - the key in the YAML file
    steps: Iterable[StepRecord],
    secrets: SecretsView,
    delivery: Mapping[str, Any],
    failure: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Return the names that the templates of a step can use.

    Args:
        event: The event that the execution answers.
        automation_name: Name of the automation.
        vars: Its `vars`.
        steps: The steps so far. Templates read `steps.ID.outputs` and `steps.ID.state`.
        secrets: Looked up when a template uses one.
        delivery: `id` and `attempt`.
        failure: `reason` and `step`, for steps of `on-failure`; None for others.
    """
    return {
        **condition_context(event_context(event), automation_name=automation_name, vars=vars),
        "steps": {step.id: {"outputs": step.outputs, "state": step.state.value} for step in steps},
        "secrets": secrets,
        "delivery": delivery,
        "failure": failure,
    }
