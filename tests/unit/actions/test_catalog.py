"""The catalog: built-in actions, installed actions, and installed actions that are broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tests.unit.actions.action_calls import perform
from upshot.actions.catalog import load_catalog
from upshot.actions.require import Require
from upshot.errors import TemplateInvalid

BUILT_IN = {"webhook", "github-dispatch", "slack", "require", "add-alias", "add-tag", "emit"}


class Installed(Require):
    uses = "theirs"


class Misnamed(Require):
    uses = "another"


class Replacement(Require):
    uses = "webhook"


def raise_error():
    raise RuntimeError("no licence key")


@pytest.fixture
def installed(monkeypatch):
    """Return a function that installs entry points: object references by name."""

    def install(**points):
        found = [EntryPoint(name, value, "upshot.actions") for name, value in points.items()]
        monkeypatch.setattr("upshot.actions.catalog.entry_points", lambda group: {"upshot.actions": found}[group])
        return load_catalog()

    return install


def test_the_catalog_contains_every_built_in_action():
    """Every built-in action is in the catalog, under its own name."""
    catalog = load_catalog()

    assert catalog.keys() >= BUILT_IN
    assert all(action.uses == name for name, action in catalog.items())


async def test_an_installed_action_can_be_used(installed):
    """An entry point adds an action to the catalog."""
    catalog = installed(theirs=f"{__name__}:Installed")

    assert (await perform(catalog["theirs"], {"that": True})).outputs == {"value": True}


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        pytest.param("no_such_module:Action", "ModuleNotFoundError", id="cannot be imported"),
        pytest.param(f"{__name__}:no_such_thing", "AttributeError", id="does not exist"),
        pytest.param(f"{__name__}:raise_error", "no licence key", id="raises"),
        pytest.param("builtins:dict", "lacks uses, inputs_model, expressions, check, perform", id="is not an action"),
        pytest.param(f"{__name__}:Misnamed", "has the name 'another'", id="has another name"),
    ],
)
async def test_a_broken_action_reports_why_it_cannot_be_used(installed, reference, reason):
    """A step that uses it reports the reason and the package. All other actions work."""
    catalog = installed(broken=reference)

    assert catalog.keys() >= BUILT_IN
    ((_, message),) = catalog["broken"].check({})
    assert "action 'broken' of" in message
    assert reason in message
    with pytest.raises(TemplateInvalid, match="action 'broken' of"):
        await perform(catalog["broken"], {})


def test_a_built_in_action_cannot_be_replaced(installed):
    """An installed package cannot replace `webhook`, which would give it the secrets of every webhook step."""
    assert type(installed(webhook=f"{__name__}:Replacement")["webhook"]).__name__ == "Webhook"
