"""Conditions that automations watch, in memory, on SQLite and on PostgreSQL: when they fire, and what events say."""

from dataclasses import replace

import pytest

from tests.contract.databases import KINDS, open_database
from tests.unit.automations.factories import automation_on
from upshot.adapters.memory.blobs import MemoryBlobs
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.revisions import MemoryRevisions
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.automations.metric_watches import REFRESH, StoredMetricWatches
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Origin
from upshot.domain.metric_history import LogRow
from upshot.domain.run import RunState
from upshot.ids import RevisionId
from upshot.ports.executions import RevisionStore
from upshot.ports.registry import RegistryStore
from upshot.registry.run_filters import RunFilter
from upshot.registry.run_log import LogRequest
from upshot.registry.runs import RunChange
from upshot.registry.service import Registry

ANN = Origin(Actor("ann"))
BELOW = {"metric": "loss", "threshold": {"lt": 0.2}}


class Recorder(MemoryStream):
    """Remembers the published events."""

    def __init__(self):
        super().__init__()
        self.published = []

    def publish(self, events):
        self.published += events
        super().publish(events)


class System:
    def __init__(self, kind, request):
        self.clock = FrozenClock()
        if kind == "memory":
            self.revisions: RevisionStore = MemoryRevisions()
            self._store: RegistryStore = MemoryRegistry(MemoryEvents(), MemoryBlobs())
        else:
            database = open_database(kind, request)
            self.revisions, self._store = SqlRevisions(database), SqlRegistry(database)
        self.sequence = 0
        self.step = 0
        self.restart()

    def restart(self):
        """Continue as another process."""
        self.stream = Recorder()
        watches = StoredMetricWatches(self.revisions, self.clock)
        self.registry = Registry(self._store, self.stream, self.clock, metric_watches=watches)

    def activate(self, **automations):
        """Bring automations into force, which have a run-metric trigger each. None is out of force."""
        self.clock.advance(REFRESH.total_seconds())
        active = [automation_on({"run-metric": on}, name=name) for name, on in automations.items()]
        self.revisions.activate(active, (), self.clock.now())

    def start(self, run_id="r", **values):
        self.sequence = self.step = 0
        change = RunChange(session="s", **{"name": "calm lake", "config": {"lr": 0.1}} | values)
        self.registry.save_run("nature", run_id, change, origin=ANN)

    def log(self, *values, run_id="r", key="loss", summary=None):
        """Log values of a metric with one request, and return the data of the run-metric events."""
        before = len(self.stream.published)
        rows = [LogRow(self.step + index, 0.0, {key: value}) for index, value in enumerate(values)]
        self.step += len(values)
        request = LogRequest("s", self.sequence, rows, summary)
        self.sequence = self.registry.log("nature", run_id, request, origin=ANN).next_sequence
        return [event.data for event in self.stream.published[before:] if event.kind == "run-metric"]


@pytest.fixture(params=["memory", *KINDS])
def system(request):
    return System(request.param, request)


def test_an_automation_is_notified_once_until_the_condition_has_been_false(system):
    """Each automation has a state of its own for each run."""
    system.activate(a=BELOW, b={"metric": "loss", "window": 2, "threshold": {"lt": 0.2}})
    system.start()

    fired = [[data["automation"] for data in system.log(value)] for value in (0.5, 0.1, 0.1, 0.1, 0.5, 0.1)]
    system.start("other")
    other = [data["automation"] for data in system.log(0.1, 0.1, run_id="other")]

    assert fired == [[], ["a"], ["b"], [], [], ["a"]]
    assert other == ["a", "b"]


def test_the_state_survives_a_restart(system):
    """Another process continues with the points of the window, and fires nothing twice."""
    system.activate(a={"metric": "loss", "window": 3, "threshold": {"lt": 0.2}})
    system.start()
    system.log(0.1, 0.1)
    system.restart()
    assert len(system.log(0.1)) == 1
    system.restart()
    assert system.log(0.1) == []


def test_an_automation_that_comes_into_force_later_knows_the_points_before(system):
    """The first evaluation reads them from the history, packed or not."""
    system.start()
    system.log(0.1, 0.1)
    system.activate(a={"metric": "loss", "window": 3, "threshold": {"lt": 0.2}})

    assert len(system.log(0.1)) == 1


def test_points_while_an_automation_was_out_of_force_count(system):
    """A window has no gap."""
    watched = {"metric": "loss", "window": 3, "threshold": {"lt": 0.2}}
    system.activate(a=watched)
    system.start()
    system.log(0.1, 0.1)
    system.activate()
    assert system.log(9.0) == []
    system.activate(a=watched)

    assert system.log(0.1) == []
    assert system.log(0.1) == []
    assert len(system.log(0.1)) == 1


def test_an_automation_out_of_force_is_not_notified(system):
    """A change is noticed within a second."""
    system.activate(a=BELOW)
    system.start()
    assert len(system.log(0.1)) == 1
    system.log(0.5)
    system.activate()

    assert system.log(0.1) == []


@pytest.mark.parametrize(
    ("filters", "answers"),
    [
        ({"project": "nat*", "job-type": "training", "tag": "gpu", "actor": "ann", "name": "calm*"}, True),
        ({"project": "other"}, False),
        ({"tag": {"not": "gpu"}}, False),
        ({"actor": "bob"}, False),
    ],
)
def test_filters_apply_to_the_run(system, filters, answers):
    """They are those of the other events of runs."""
    system.activate(a=filters | BELOW)
    system.start(job_type="training", tags=["gpu"])

    assert bool(system.log(0.1)) is answers


def test_the_event_says_what_was_seen(system):
    """It has the run with its config and the summary of the same request, and the numbers behind the condition."""
    system.activate(a={"metric": "loss", "window": 2, "change": {"by": "50%", "direction": "down"}})
    system.start()
    system.log(1.0, 1.0, 1.0)

    (data,) = system.log(0.0, 0.0, summary={"best": 1})

    assert data["project"] == {"name": "nature"}
    assert (data["run"]["id"], data["run"]["config"], data["run"]["summary"]) == ("r", {"lr": 0.1}, {"best": 1})
    assert data["metric"] | {"condition_id": ""} == {
        "name": "loss",
        "kind": "change",
        "aggregate": "avg",
        "window": 2,
        "value": 0.5,
        "values": [1.0, 0.0],
        "step": 3,
        "prior": 1.0,
        "deviation": None,
        "condition": "avg of the last 2 points of loss falls by 50.0 % or more against the 2 points before",
        "condition_id": "",
    }


def test_what_is_not_a_number_does_not_count(system):
    """Texts are no points of a metric; NaN is one, and makes a condition false."""
    system.activate(a=BELOW)
    system.start()

    assert len(system.log("low", 0.1, "NaN", 0.1)) == 2
    assert system.log(True, key="other") == []


def test_a_condition_that_changes_with_every_point_is_limited(system):
    """A request of 10,000 points creates a few events, each of which contains the run, and the state goes on."""
    system.activate(a=BELOW)
    system.start()

    assert [data["metric"]["step"] for data in system.log(*[0.5, 0.1] * 50)] == list(range(1, 21, 2))
    assert system.log(0.1) == []
    assert len(system.log(0.5, 0.1)) == 1


def test_many_conditions_on_many_points_are_limited(system, monkeypatch):
    """The newest points are followed by an evaluation, and the points before them count in windows."""
    monkeypatch.setattr("upshot.registry.metric_conditions.MAX_EVALUATIONS", 6)
    watched = {"metric": "loss", "window": 3, "agg": "max", "threshold": {"lt": 0.2}}
    system.activate(a=watched, b=watched)
    system.start()

    fired = system.log(*[0.1] * 6, 0.5, *[0.1] * 3)

    assert [(data["automation"], data["metric"]["step"]) for data in fired] == [("a", 9), ("b", 9)]
    assert fired[0]["metric"]["values"] == [0.1, 0.1, 0.1]


def test_two_entries_that_watch_the_same_notify_once(system):
    """Their filters overlap; one condition has one state."""
    system.activate(a=BELOW)
    both = automation_on({"run-metric": BELOW}, name="a")
    other = automation_on({"run-metric": BELOW | {"project": "nat*"}}, name="a")
    system.clock.advance(REFRESH.total_seconds())
    system.revisions.activate(
        [replace(both, triggers=(*both.triggers, *other.triggers), revision_id=RevisionId("2"))], (), system.clock.now()
    )
    system.start()

    assert len(system.log(0.1)) == 1


def test_any_number_can_be_logged(system):
    """Numbers whose squares are too large for a float do not refuse a request."""
    system.activate(a={"metric": "loss", "window": 2, "z-score": {"above": 3}})
    system.start()

    assert len(system.log(*[1e300, 1.1e300] * 10, 1.7e308, 1.7e308, -1.7e308, 5e-324)) == 1


def test_a_repeated_request_fires_nothing(system):
    """A client that got no answer sends its request again."""
    system.activate(a=BELOW)
    system.start()
    system.log(0.1)
    system.sequence = 0

    assert system.log(0.1) == []


def test_a_run_with_conditions_can_be_deleted(system):
    """Its states go with it."""
    system.activate(a=BELOW)
    system.start()
    system.log(0.1)

    system.registry.delete_run("nature", "r", origin=ANN)

    assert system.registry.runs("nature", RunFilter(), limit=10).runs == ()


def test_runs_tell_when_they_start_and_end(system):
    """A run that is killed has failed; one that is resumed starts again."""
    system.start()
    system.registry.finish_run("nature", "r", RunState.FINISHED, origin=ANN)
    system.registry.save_run("nature", "r", RunChange(session="s2", resume="allow"), origin=ANN)
    system.registry.finish_run("nature", "r", RunState.KILLED, origin=ANN)

    assert [(event.kind, event.subject, event.data["run"]["state"]) for event in system.stream.published] == [
        ("run-started", "nature/r", "running"),
        ("run-finished", "nature/r", "finished"),
        ("run-started", "nature/r", "running"),
        ("run-failed", "nature/r", "killed"),
    ]


def test_a_silent_run_has_failed(system):
    """The next sign of life starts it again."""
    system.start()
    system.clock.advance(61)
    system.registry.end_silent_runs()
    system.registry.record_heartbeat("nature", "r", session="s", origin=ANN)

    assert [event.kind for event in system.stream.published] == ["run-started", "run-failed", "run-started"]


def test_a_condition_looks_at_steps_that_count(system):
    """A value whose step went back is dropped, and is no point."""
    system.activate(a=BELOW)
    system.start()
    system.log(0.5, 0.5)
    system.step = 0

    assert system.log(0.1) == []


def test_an_automation_that_comes_into_force_again_is_notified_only_of_changes(system):
    """What it was notified of stays known while it is out of force."""
    system.activate(a=BELOW)
    system.start()
    assert len(system.log(0.1)) == 1
    system.activate()
    system.log(0.1)
    system.activate(a=BELOW)

    assert system.log(0.1) == []


def test_watches_are_kept_as_they_are(system):
    """What is stored equals what the automation says."""
    system.activate(
        a={"metric": "loss", "project": ["x-*", {"not": "x-1"}], "z-score": {"above": 3, "direction": "up"}},
        b={"metric": "loss", "change": {"by": "10%"}},
    )
    automations = [
        automation_on({"run-metric": on})
        for on in (
            {"metric": "loss", "project": ["x-*", {"not": "x-1"}], "z-score": {"above": 3, "direction": "up"}},
            {"metric": "loss", "change": {"by": "10%"}},
        )
    ]

    stored = [replace(watch, since=None) for watch in system.revisions.watches()]

    assert [(watch.filters, watch.watch) for watch in stored] == [
        (automation.triggers[0].filters, automation.triggers[0].watch) for automation in automations
    ]
    assert all(watch.since == system.clock.now() for watch in system.revisions.watches())
