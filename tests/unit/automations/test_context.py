"""The names that templates can use."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.automations.factories import custom_event, make_context, make_event, version_data
from upshot.automations.context import EVENT_NAMES, STEP_NAMES, WANDB_NAMES, SecretsView, event_context
from upshot.automations.scope import CONTEXT_FIELDS
from upshot.automations.template import compile_tree
from upshot.domain.execution import ExecutionState, StepRecord
from upshot.domain.job import Job, JobSpec, JobState
from upshot.errors import TemplateInvalid
from upshot.jobs.events import job_event
from upshot.ports.events import EventQuery
from upshot.resources.event import event_json
from upshot.testing import Secrets, World


def render(text, context):
    return compile_tree({"x": text}, path="a.yaml", line_of=lambda _: 1).render(context)["x"]


def test_event_data_has_names_of_its_own():
    """Templates use what the event carries by name. What it does not carry is null."""
    context = make_context(make_event("alias-added", previous=version_data(number=2)))

    assert render("{{ registry.name }}/{{ collection.name }}:{{ version.name }} {{ alias }}", context) == (
        "model/fraud:v3 production"
    )
    assert render("{{ previous.name }} {{ actor.name }} {{ project.name }} {{ artifact.reference }}", context) == (
        "v2 ann fraud fraud/xgb"
    )
    assert render("{{= [tag, stage, run, metric, job, failure] }}", context) == [None] * 6


def test_the_data_of_a_custom_event_is_only_in_event_data():
    """The data of a custom event belongs to the user: its key `version` is not the context `version`."""
    context = make_context(custom_event("drift", version={"name": "v9"}, alias="x"))

    assert render("{{= [version, alias, registry] }}", context) == [None, None, None]
    assert render("{{ event.name }} {{ event.data.version.name }}", context) == "drift v9"


def test_the_event_as_a_whole():
    """`event` has the shape of the REST API."""
    event = make_event()

    assert render("{{= event }}", make_context(event)) == event_json(event)


def test_steps_show_outputs_and_state():
    """A step without outputs has null outputs, and every path below them is null."""
    done = StepRecord("gate", "require", state=ExecutionState.SUCCEEDED, outputs={"value": 0.9})
    skipped = StepRecord("two", "emit", state=ExecutionState.SKIPPED)
    context = make_context(steps=[done, skipped])

    assert render("{{= steps.gate.outputs.value }}", context) == 0.9
    assert render("{{ steps.gate.state }}/{{ steps.two.state }}", context) == "succeeded/skipped"
    assert render("{{= steps.two.outputs.anything }}", context) is None


def test_on_failure_steps_can_use_failure():
    """`failure` contains the reason and the step."""
    context = make_context(failure={"reason": "refused", "step": "dispatch"})

    assert render("{{ failure.step }}: {{ failure.reason }}", context) == "dispatch: refused"


def test_a_secret_is_looked_up_when_a_template_uses_it():
    """A secret is looked up only when it is used, and then remembered for masking."""
    secrets = SecretsView(Secrets({"A": "one", "B": "two"}))
    context = make_context(secrets=secrets)
    assert secrets.used == {}

    assert render("{{ secrets.A }}", context) == "one"
    assert secrets.used == {"A": "one"}


def test_an_unknown_secret_is_reported_with_a_remedy():
    """The message names both ways to set a secret."""
    with pytest.raises(TemplateInvalid) as caught:
        render("{{ secrets.GITHUB_TOKEN }}", make_context(secrets=SecretsView(Secrets({}))))

    assert str(caught.value) == (
        "a.yaml:1: with.x: there is no secret 'GITHUB_TOKEN'; set the environment variable "
        "UPSHOT_SECRET_GITHUB_TOKEN, or create the file GITHUB_TOKEN in UPSHOT_SECRETS_DIR or in `secrets` in the data "
        "directory"
    )


def test_a_misspelled_secret_is_reported_with_the_nearest_name():
    """The message contains the name of the nearest secret, never its value."""
    secrets = SecretsView(Secrets({"GITHUB_TOKEN": "hunter2"}))

    with pytest.raises(TemplateInvalid, match="no secret 'GITHUB_TOKN'; did you mean 'GITHUB_TOKEN'") as caught:
        render("{{ secrets.GITHUB_TOKN }}", make_context(secrets=secrets))

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "on", "event_type"),
    [
        ("version-linked", None, "LINK_ARTIFACT"),
        ("version-unlinked", None, "UNLINK_ARTIFACT"),
        ("alias-added", None, "ADD_ARTIFACT_ALIAS"),
        ("artifact-created", None, "CREATE_ARTIFACT"),
        ("tag-added", "version", "ADD_ARTIFACT_TAG"),
        ("tag-removed", "version", "REMOVE_ARTIFACT_TAG"),
        ("tag-added", "collection", "ADD_COLLECTION_TAG"),
        ("tag-removed", "collection", "REMOVE_COLLECTION_TAG"),
        ("collection-created", None, ""),
    ],
)
def test_event_types_of_wandb(kind, on, event_type):
    """`event_type` is W&B's word for the event, or empty if W&B has none."""
    assert render("{{ event_type }}", make_context(make_event(kind, on=on))) == event_type


def test_the_names_of_wandb():
    """W&B's variable names work in templates."""
    context = make_context(make_event())

    assert {name: render(f"{{{{= {name} }}}}", context) for name in WANDB_NAMES} == {
        "event_type": "ADD_ARTIFACT_ALIAS",
        "event_author": "ann",
        "entity_name": "",
        "project_name": "fraud",
        "automation_name": "promote",
        "artifact_collection_name": "fraud",
        "artifact_version": "fraud/xgb:v7",
        "artifact_version_string": "model-registry/fraud:v3",
        "artifact_version_index": 3,
        "artifact_metadata": version_data()["metadata"],
        "run_name": "",
        "run_status": "",
        "metric_name": "",
        "metric_values": "",
    }
    assert render("{{ artifact_metadata.accuracy }}", context) == "0.94"


def test_a_name_of_wandb_that_does_not_apply_is_empty():
    """A name that does not apply is the empty string, as in W&B, and so is every key of missing metadata."""
    context = make_context(custom_event())

    assert render("{{ artifact_metadata.accuracy }}|{{ artifact_version }}|{{ event_type }}", context) == "||"
    assert render("{{= [artifact_metadata.x, artifact_collection_name] }}", context) == ["", ""]


def test_missing_metadata_is_an_error():
    """A key that the version's metadata does not have is unknown, also under W&B's name."""
    with pytest.raises(TemplateInvalid, match="'artifact_metadata' has no 'acuracy'; did you mean 'accuracy'"):
        render("{{ artifact_metadata.acuracy }}", make_context())


def test_artifact_collection_name_is_the_artifact_in_a_project():
    """An event in a project has no collection, so W&B's name means the artifact."""
    event = make_event("artifact-created")
    event = replace(event, data={key: value for key, value in event.data.items() if key != "collection"})

    assert render("{{ artifact_collection_name }}", make_context(event)) == "xgb"


def test_the_known_names_are_those_in_the_context():
    """The names that loading a file accepts are exactly those that rendering has."""
    assert set(make_context()) == STEP_NAMES | {"failure"}
    assert set(event_context(make_event())) | {"vars", "automation", "automation_name"} == EVENT_NAMES


def test_the_known_fields_are_those_that_events_carry():
    """The fields that loading a file accepts below a name are exactly those in the registry's events."""
    world = World()
    world.link(alias="production")
    world.link(alias="production")
    stored = world.events.page(EventQuery(kind="alias-added"), cursor=None, limit=100).items
    published = [item.event.data for item in stored]
    data = next(data for data in published if data["alias"] == "production" and data["previous"])

    for name in ("registry", "collection", "version", "previous", "project", "artifact"):
        assert set(CONTEXT_FIELDS[name]) == set(data[name]), name


def test_the_known_fields_of_jobs_are_those_that_their_events_carry():
    """The fields that loading a file accepts below `job` are exactly those in the events of jobs."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    names: dict[str, Any] = dict.fromkeys(
        ("id", "name", "automation", "execution_id", "step_id", "event_id", "delivery_id", "queue"), "x"
    )
    job = Job(**names, backend="docker", spec=JobSpec(), created_at=now, state=JobState.RUNNING)
    event = job_event(job, make_event(), now)
    assert event is not None

    assert set(CONTEXT_FIELDS["job"]) == set(event.data["job"])
    assert render("{{ job.name }} of {{ job.automation }}, {{ version.name }}", make_context(event)) == "x of x, v3"
