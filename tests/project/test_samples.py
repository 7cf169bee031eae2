"""The sample automations: they load, and the event beside each fires it."""

from __future__ import annotations

import json

import pytest

from tests.project.repository import PAGES, ROOT
from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.automations.loader import load_folder
from upshot.automations.matcher import Matcher, MatchResult
from upshot.domain.event import Event

SAMPLES = ROOT / "automations"
CATALOG = load_catalog(EgressRules())
LOADED = load_folder(SAMPLES, CATALOG)
NAMES = [automation.name for automation in LOADED.automations]


def test_samples_are_sound():
    """Every file under automations/ loads without a finding, and there are some."""
    assert NAMES
    assert not [str(error) for error in LOADED.errors]


def test_every_sample_has_its_event():
    """automations/events/ has one event for each automation, of its name, and none besides."""
    assert sorted(path.stem for path in (SAMPLES / "events").glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_event_of_a_sample_fires_it(name):
    """The event beside an automation is one that it answers."""
    event = Event.from_dict(json.loads((SAMPLES / "events" / f"{name}.json").read_text()))

    answers = [
        match.automation.name
        for match in Matcher(LOADED.automations).match(event)
        if match.result is MatchResult.MATCHED
    ]

    assert name in answers


def test_every_action_has_an_example():
    """Whoever looks for an action finds an automation that uses it, among the samples or on the pages."""
    pages = "".join(page.read_text() for page in PAGES)
    used = {step.uses for automation in LOADED.automations for step in (*automation.steps, *automation.on_failure)}

    assert not [uses for uses in CATALOG if uses not in used and f"uses: {uses}\n" not in pages]
