"""Events and a catalog for tests of automations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.automations.context import SecretsView, build_context
from upshot.automations.loader import load_text
from upshot.automations.parser.automation import read_automation
from upshot.automations.parser.diagnostics import Diagnostics
from upshot.automations.parser.document import Document, with_lines
from upshot.automations.parser.steps import ParseContext
from upshot.domain.automation import Automation
from upshot.domain.event import Actor, Cause, Event, EventKind

CATALOG = load_catalog(EgressRules())


class Secrets:
    """A `SecretSource` of a dictionary."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def names(self) -> frozenset[str]:
        return frozenset(self.values)


def version_form(collection: str = "fraud", number: int = 3, **fields: Any) -> dict[str, Any]:
    return {
        "name": f"v{number}",
        "number": number,
        "reference": f"model/{collection}:v{number}",
        "digest": "sha256:0123456789abcdef",
        "metadata": {"accuracy": 0.94, "format": "onnx", "items": 7, "classes": ["yes", "no"]},
        "aliases": ["latest", "production"],
        "tags": [],
        "artifact": "fraud/xgb:v7",
        "project": "fraud",
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
    """A registry event about a version; `data` replaces what it carries."""
    carried = {
        "registry": {"name": registry},
        "collection": {"name": collection, "type": "model", "description": "", "tags": []},
        "version": version_form(collection, number),
        "project": {"name": "fraud"},
        "artifact": {"name": "xgb", "type": "model", "reference": "fraud/xgb:v7"},
        "aliases": ["latest", "production"],
    }
    if kind in ("alias-added", "alias-removed"):
        carried |= {"alias": "production", "previous": None, "automatic": False}
    return Event(
        id="evt_01kz3fkzd00kchwdaek5ccxwn0",
        kind=EventKind(kind),
        time=datetime(2026, 8, 3, 9, 30, tzinfo=UTC),
        subject=f"{registry}/{collection}:v{number}",
        actor=Actor(actor),
        mutation_id="mut_1",
        sequence=0,
        data=carried | data,
        chain=chain,
    )


def custom_event(name: str = "drift", *, chain: tuple[Cause, ...] = (), **data: Any) -> Event:
    return Event(
        id="evt_01kz3fkzd00kchwdaek5ccxwn1",
        kind=EventKind.CUSTOM,
        time=datetime(2026, 8, 3, 9, 30, tzinfo=UTC),
        subject=name,
        actor=Actor("monitor", "service"),
        mutation_id="mut_2",
        sequence=0,
        data=data,
        name=name,
        chain=chain,
    )


def make_context(event: Event | None = None, **values: Any) -> dict[str, Any]:
    """What a step's templates know, with `values` in place of what `build_context` gives."""
    given: dict[str, Any] = {
        "automation_name": "promote",
        "vars": {"bar": 0.9},
        "steps": [],
        "secrets": SecretsView(Secrets(TOKEN="hunter2")),
        "delivery": {"id": "dlv_1", "attempt": 2},
    }
    known = {name: values.pop(name) for name in list(values) if name in given or name == "failure"}
    return build_context(event or make_event(), **(given | known)) | values


def automation(text: str) -> Automation:
    """The one automation of a YAML text, which must be sound."""
    loaded = load_text(text, "a.yaml", CATALOG)
    assert not loaded.errors, [str(error) for error in loaded.errors]
    (found,) = loaded.automations
    return found


def answering(on: Any, *, name: str = "a", **keys: Any) -> Automation:
    """An automation with these triggers, as plain data."""
    source = {"name": name, "on": on, "steps": [{"uses": "emit", "with": {"name": "x"}}]} | keys
    findings = Diagnostics("a.yaml")
    bodies: dict[str, str] = {}
    found = read_automation(
        Document(with_lines(source), 1), "a.yaml", ParseContext(CATALOG, bodies.__getitem__, {}, findings)
    )
    assert found is not None, [str(error) for error in findings.errors]
    return found
