"""Events, contexts and automations for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from upshot.actions.catalog import load_catalog
from upshot.automations.context import SecretsView, step_context
from upshot.automations.loader import load_text
from upshot.automations.parser.automation import parse_automation
from upshot.automations.parser.diagnostics import Diagnostics
from upshot.automations.parser.document import Document, to_yaml_nodes
from upshot.automations.parser.steps import ParseContext
from upshot.domain.automation import Automation
from upshot.domain.event import Actor, ActorKind, Cause, Event, EventKind
from upshot.ids import EventId
from upshot.testing import Secrets

CATALOG = load_catalog()


def version_data(collection: str = "fraud", number: int = 3, **fields: Any) -> dict[str, Any]:
    """Return a version as events carry it."""
    return {
        "name": f"v{number}",
        "number": number,
        "reference": f"model/{collection}:v{number}",
        "registry": "model",
        "collection": collection,
        "artifact": "fraud/xgb:v7",
        "artifact_name": "xgb",
        "artifact_version": "v7",
        "artifact_type": "model",
        "project": "fraud",
        "aliases": ["latest", "production"],
        "tags": [],
        "description": "",
        "metadata": {"accuracy": 0.94, "format": "onnx", "items": 7, "classes": ["yes", "no"]},
        "digest": "sha256:0123456789abcdef",
    } | fields


def make_event(
    kind: str = "alias-added",
    *,
    registry: str = "model",
    collection: str = "fraud",
    number: int = 3,
    actor: str = "ann",
    chain: tuple[Cause, ...] = (),
    **data: Any,
) -> Event:
    """Return a registry event about a version. `data` replaces parts of its data."""
    defaults: dict[str, Any] = {
        "registry": {"name": registry},
        "collection": {"name": collection, "artifact_type": "model", "description": "", "tags": []},
        "version": version_data(collection, number),
        "project": {"name": "fraud"},
        "artifact": {"project": "fraud", "name": "xgb", "reference": "fraud/xgb", "artifact_type": "model"},
        "aliases": ["latest", "production"],
    }
    if kind in ("alias-added", "alias-removed"):
        defaults |= {"alias": "production", "previous": None, "automatic": False}
    return Event(
        id=EventId("evt_01kz3fkzd00kchwdaek5ccxwn0"),
        kind=EventKind(kind),
        time=datetime(2026, 8, 3, 9, 30, tzinfo=UTC),
        subject=f"{registry}/{collection}:v{number}",
        actor=Actor(actor),
        mutation_id="mut_1",
        sequence=0,
        data=defaults | data,
        chain=chain,
    )


def custom_event(name: str = "drift", *, chain: tuple[Cause, ...] = (), **data: Any) -> Event:
    """Return a custom event with this data."""
    return Event(
        id=EventId("evt_01kz3fkzd00kchwdaek5ccxwn1"),
        kind=EventKind.CUSTOM,
        time=datetime(2026, 8, 3, 9, 30, tzinfo=UTC),
        subject=name,
        actor=Actor("monitor", ActorKind.SERVICE),
        mutation_id="mut_2",
        sequence=0,
        data=data,
        name=name,
        chain=chain,
    )


def make_context(event: Event | None = None, **values: Any) -> dict[str, Any]:
    """Return the context of a step's templates. `values` replaces parts of it."""
    arguments: dict[str, Any] = {
        "automation_name": "promote",
        "vars": {"bar": 0.9},
        "steps": [],
        "secrets": SecretsView(Secrets({"TOKEN": "hunter2"})),
        "delivery": {"id": "dlv_1", "attempt": 2},
    }
    arguments |= {name: values.pop(name) for name in list(values) if name in arguments or name == "failure"}
    return step_context(event or make_event(), **arguments) | values


def automation(text: str) -> Automation:
    """Return the only automation of a YAML text, which must be valid."""
    loaded = load_text(text, "a.yaml", CATALOG)
    assert not loaded.errors, [str(error) for error in loaded.errors]
    (parsed,) = loaded.automations
    return parsed


def automation_on(on: Any, *, name: str = "a", **keys: Any) -> Automation:
    """Return an automation with these triggers, which are plain data."""
    source = {"name": name, "on": on, "steps": [{"uses": "emit", "with": {"name": "x"}}]} | keys
    diagnostics = Diagnostics("a.yaml")
    body_files: dict[str, str] = {}
    context = ParseContext(CATALOG, body_files.__getitem__, diagnostics, {})
    parsed = parse_automation(Document(to_yaml_nodes(source), 1), "a.yaml", context)
    assert parsed is not None, [str(error) for error in diagnostics.errors]
    return parsed
