"""The catalog: ours, those of others, and those of others that are broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tests.unit.actions.action_calls import perform
from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.require import Require
from upshot.errors import TemplateInvalid

BUILT_IN = {"webhook", "github-dispatch", "slack", "require", "add-alias", "add-tag", "emit"}


class Theirs(Require):
    uses = "theirs"


class Misnamed(Require):
    uses = "another"


class Hijacker(Require):
    uses = "webhook"


def raise_error():
    raise RuntimeError("no licence key")


@pytest.fixture
def installed(monkeypatch):
    """Installs entry points: name to object reference."""

    def install(**points):
        found = [EntryPoint(name, value, "upshot.actions") for name, value in points.items()]
        monkeypatch.setattr("upshot.actions.catalog.entry_points", lambda group: {"upshot.actions": found}[group])
        return load_catalog(EgressRules())

    return install


def test_the_catalog_has_every_built_in_action_under_its_own_name():
    """What YAML says is what the action calls itself."""
    catalog = load_catalog(EgressRules())

    assert catalog.keys() >= BUILT_IN
    assert all(action.uses == name for name, action in catalog.items())


def test_an_installed_action_can_be_used(installed):
    """An entry point adds an action."""
    catalog = installed(theirs=f"{__name__}:Theirs")

    assert perform(catalog["theirs"], {"that": True}).outputs == {"value": True}


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        pytest.param("no_such_module:Action", "ModuleNotFoundError", id="cannot be imported"),
        pytest.param(f"{__name__}:no_such_thing", "AttributeError", id="is not there"),
        pytest.param(f"{__name__}:raise_error", "no licence key", id="raises"),
        pytest.param("builtins:dict", "lacks uses, with_record, expressions, check, perform", id="is no action"),
        pytest.param(f"{__name__}:Misnamed", "calls itself 'another'", id="has another name"),
    ],
)
def test_a_broken_action_is_visible_where_it_is_used_and_harms_no_other(installed, reference, why):
    """Whoever uses it reads what is wrong and with which package; everything else works."""
    catalog = installed(broken=reference)

    assert catalog.keys() >= BUILT_IN
    ((_, finding),) = catalog["broken"].check({})
    assert "action 'broken' of" in finding
    assert why in finding
    with pytest.raises(TemplateInvalid, match="action 'broken' of"):
        perform(catalog["broken"], {})


def test_a_built_in_action_cannot_be_replaced(installed):
    """A package that brings a `webhook` of its own does not get everybody's secrets."""
    assert type(installed(webhook=f"{__name__}:Hijacker")["webhook"]).__name__ == "Webhook"
