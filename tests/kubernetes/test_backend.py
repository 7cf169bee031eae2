"""The backend on a cluster that is played: what the contract cannot ask of every engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.hand import NAME, Hand, order
from tests.kubernetes.node import DIGEST
from tests.kubernetes.server import KUBE_SYSTEM_UID, Rule
from tests.kubernetes.stand_in import NAMESPACE, TOKEN, StandIn, documented_rules, write_kubeconfig
from tests.kubernetes.store import JOB, POD, SECRET
from tests.waiting import until
from upshot.backends.kubernetes import api, make
from upshot.backends.protocol import EngineUnavailable, OutputUnreadable, Phase, StartRefused
from upshot.domain.job import FailureKind, ImagePullCredentials

EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
STUBBORN = "trap '' TERM; echo begun; while :; do sleep 0.1; done"


# --- start ----------------------------------------------------------------------------------------


def test_what_is_left_in_the_cluster(hand, cluster):
    """A try is one Job with its Secrets, and nothing is left of it when it was removed."""
    hand.run("true", registry_auth=ImagePullCredentials("me", "pass"))
    kept = {kind.kind: len(cluster.do(cluster.store.all, kind)) for kind in (JOB, POD, SECRET)}
    assert kept == {"Job": 1, "Pod": 1, "Secret": 3}

    hand.remove()

    until(
        lambda: not [kind for kind, _ in cluster.do(lambda: list(cluster.store.things)) if kind in {JOB, POD, SECRET}]
    )


@pytest.mark.parametrize(
    "where", ["POST .*/jobs", "PATCH .*/secrets/.*-env", "PATCH .*/secrets/.*-files", "PATCH .*/jobs/"]
)
def test_a_start_that_is_refused_leaves_nothing(hand, cluster, where):
    """Whatever the API server refuses, the reason is its own, and what was made before is removed."""
    cluster.fault(where, status=403, message="exceeded quota: small")

    with pytest.raises(StartRefused, match="exceeded quota: small") as refused:
        hand.start()

    assert refused.value.failure is FailureKind.REFUSED
    assert hand.look() == {}
    assert not cluster.do(cluster.store.all, SECRET)


@pytest.mark.parametrize("where", ["POST .*/jobs", "PATCH .*/secrets/.*-files", "PATCH .*/jobs/"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"cut": True}])
def test_a_start_that_breaks_off_is_taken_up(hand, cluster, where, fault):
    """When the API server fails in the middle, the next start goes on, and the job runs once."""
    cluster.fault(where, **fault)
    with pytest.raises(EngineUnavailable):
        hand.start("echo ran; cat $UPSHOT_TOKEN", env={"UPSHOT_TOKEN": "/dev/null"})
    assert [one.phase for one in hand.look().values()] in ([], [Phase.CREATED])

    hand.start("echo ran; cat $UPSHOT_TOKEN", env={"UPSHOT_TOKEN": "/dev/null"})

    assert hand.ended().exit_code == 0
    assert hand.log().data == b"ran\n"


def test_an_answer_that_was_lost(hand, cluster):
    """A Job that was made though nobody heard of it is found by its name."""
    cluster.fault("POST .*/jobs", seconds=0.2)

    async def start_and_hang_up() -> None:
        starting = asyncio.create_task(hand.backend.start(order("true")))
        await asyncio.sleep(0.1)
        starting.cancel()
        await asyncio.wait([starting])

    hand.do(start_and_hang_up())
    hand.start("true")

    assert hand.ended().exit_code == 0
    assert len(cluster.pods(NAME)) == 1


def test_a_label_that_kubernetes_does_not_take(hand):
    """The job is refused, in the API server's words."""
    with pytest.raises(StartRefused, match="a valid label must be"):
        hand.start(labels={"note": "two words"})
    assert hand.look() == {}


def test_a_namespace_that_is_not_there(connect):
    """The job is refused for it."""
    with pytest.raises(StartRefused, match='namespaces "nowhere" not found'):
        connect(namespace="nowhere").start()


def test_an_environment_that_is_too_large(hand):
    """A Secret holds a megabyte; beyond it the job is refused, and nothing is left."""
    with pytest.raises(StartRefused, match="Too long"):
        hand.start(env={"BIG": "x" * 1_100_000})
    assert hand.look() == {}


# --- waiting --------------------------------------------------------------------------------------


def test_a_job_that_waits_for_a_gpu(hand, cluster):
    """It is pending with the scheduler's reason, and runs when there is one."""
    hand.start(gpus=1)
    seen = hand.seen_as(lambda one: one.note and "node" in one.note)
    assert (seen.phase, seen.started_at) == (Phase.PENDING, None)
    assert "Insufficient nvidia.com/gpu" in seen.note

    cluster.node.capacity["nvidia.com/gpu"] = 1

    assert hand.ended().exit_code == 0


def test_a_job_that_waits_for_a_certain_node(connect, cluster):
    """The node selector of operator and author decide."""
    hand = connect(node_selector={"pool": "gpu"})
    hand.start(options={"node-selector": {"zone": "a"}})
    assert "didn't match" in hand.seen_as(lambda one: one.note and "node" in one.note).note

    cluster.node.labels |= {"pool": "gpu", "zone": "a"}

    assert hand.ended().exit_code == 0


def test_an_image_that_is_not_there(hand, cluster):
    """It is waited for two minutes by the cluster's clock, with the reason; then it is missing."""
    hand.start(image="ghcr.io/acme/none:1")
    seen = hand.seen_as(lambda one: one.note and "ghcr.io/acme/none:1" in one.note)
    assert (seen.phase, seen.cause) == (Phase.PENDING, None)

    cluster.do(cluster.controllers.warn, cluster.pods(NAME)[0], "Failed", "Error: ImagePullBackOff", minutes=2.1)

    assert hand.ended().failure is FailureKind.IMAGE_MISSING
    assert hand.log().data == b""
    hand.remove()
    assert hand.look() == {}


def test_an_image_that_comes_late(hand, cluster):
    """A registry that was away for a moment costs a job that moment."""
    hand.start(image="ghcr.io/acme/late:1")
    hand.seen_as(lambda one: one.note and "late" in one.note)

    cluster.node.images["ghcr.io/acme/late:1"] = ("/bin/sh",)

    seen = hand.ended()
    assert (seen.exit_code, seen.image_digest) == (0, DIGEST)


def test_a_pod_that_is_not_made(hand, cluster):
    """What the Job controller complains of is the reason."""
    cluster.controllers.makes_pods = False
    hand.start()
    cluster.do(cluster.controllers.warn, cluster.job(NAME), "FailedCreate", "exceeded quota: pods=10")

    assert "exceeded quota: pods=10" in hand.seen().note


# --- ends -----------------------------------------------------------------------------------------


def test_a_job_that_ends_in_time_though_nobody_watches(connect):
    """The node ends it by itself when its time is over."""
    hand = connect(pull_time="0s")
    hand.begin("trap 'echo late; exit 9' TERM; echo begun; while :; do sleep 0.1; done", timeout_seconds=1)

    seen = hand.ended()

    assert (seen.cause, seen.exit_code) == (FailureKind.TIMED_OUT, 9)
    assert hand.log().data == b"begun\nlate\n"


def test_a_job_that_is_evicted(hand, cluster):
    """Its place was taken back, and what it has said can still be read."""
    hand.begin()

    cluster.evict(NAME)

    seen = hand.ended()
    assert (seen.cause, seen.note) == (FailureKind.EVICTED, "The node was low on resource: memory.")
    assert hand.log().data == b"begun\n"


def test_a_pod_that_somebody_deletes(hand, cluster):
    """Drained or deleted by hand, its place was taken back; its outputs went with it."""
    hand.begin()

    cluster.delete_pod(NAME)

    assert hand.ended().failure is FailureKind.EVICTED
    assert hand.log().data == b""
    with pytest.raises(OutputUnreadable, match="went with its pod"):
        hand.outputs()


def test_a_job_that_somebody_deletes(hand, cluster):
    """It is not there any more."""
    hand.begin()

    cluster.delete_job(NAME)

    assert hand.look() == {}


def test_the_log_of_a_node_that_is_gone(hand, cluster):
    """A log that cannot be read any more is at its end; one that cannot be read for now is not."""
    hand.begin()
    cluster.fault("GET .*/log", status=500, message="dial tcp 10.0.0.1:10250: connect: no route to host")
    with pytest.raises(EngineUnavailable, match="no route to host"):
        hand.log()

    life = cluster.life(NAME)
    cluster.do(life.condition, "DisruptionTarget", "True", "DeletionByTaintManager", "node is not ready")
    cluster.fault("GET .*/log", status=500, times=2)

    assert hand.log().data == b""
    assert hand.log(position="17.0.1.0.0").position == "17.0.1.0.0"


def test_outputs_whose_teller_was_killed(hand, cluster):
    """A sidecar that could not end its sentence is no job without outputs."""
    cluster.node.images["quiet:1"] = ("/bin/sh",)
    hand.run("echo {} > $UPSHOT_OUTPUT/outputs.json")
    cluster.life(NAME).containers["upshot-outputs"].log.pop()

    with pytest.raises(OutputUnreadable, match="was killed before"):
        hand.outputs()


# --- stop -----------------------------------------------------------------------------------------


def test_a_stop_keeps_what_was_said(hand, cluster):
    """A job that is stopped ends with its own code and its whole log, as its pod is not deleted for it."""
    hand.begin("trap 'echo bye; exit 5' TERM; echo begun; while :; do sleep 0.1; done")

    hand.stop(grace_seconds=10)

    seen = hand.ended()
    assert (seen.exit_code, seen.cause) == (5, None)
    assert hand.log().data == b"begun\nbye\n"
    assert not [line for line in cluster.asked if line.startswith("DELETE")]


def test_a_stop_said_twice(hand):
    """Another worker that says it again changes nothing."""
    hand.begin(STUBBORN, grace_seconds=6)

    hand.stop(grace_seconds=6)
    hand.stop(grace_seconds=6)

    assert hand.seen().phase is Phase.RUNNING
    assert hand.ended().exit_code == 137


def test_a_stop_that_does_not_help(hand):
    """Said again without grace, the pod is deleted: it ends at once, and what is known is that it was stopped."""
    hand.begin(STUBBORN, grace_seconds=600)
    hand.stop(grace_seconds=600)

    hand.stop(grace_seconds=0)

    seen = hand.ended()
    assert (seen.exit_code, seen.cause) == (None, FailureKind.CANCELLED)


def test_a_stop_on_a_node_that_is_silent(hand, cluster, monkeypatch):
    """A pod that was deleted, and is not seen to by its node, is removed by force."""
    hand.begin(STUBBORN, grace_seconds=600)
    life = cluster.life(NAME)
    with monkeypatch.context() as silence:
        silence.setattr(life, "stop", lambda *_, **__: None)
        hand.stop(grace_seconds=600)
        hand.stop(grace_seconds=0)
        assert hand.seen().phase is Phase.RUNNING
        hand.stop(grace_seconds=0)

    assert [line[-1] for line in cluster.asked if "gracePeriodSeconds=" in line] == ["1", "0"]
    life.stop(grace=0)


@pytest.mark.parametrize(
    "spec", [pytest.param({"gpus": 1}, id="without a node"), pytest.param({"image": "none:1"}, id="without its image")]
)
def test_a_stop_before_it_has_begun(hand, cluster, spec):
    """It never runs, and its end is seen."""
    hand.start("echo ran", **spec)
    hand.seen_as(lambda one: any(word in (one.note or "") for word in ("waits", "none:1")))

    hand.stop()

    seen = hand.ended()
    assert (seen.cause, seen.exit_code) == (FailureKind.CANCELLED, None)
    until(lambda: not cluster.pods(NAME))
    hand.start("echo ran", **spec)  # a worker that did not hear of it
    assert hand.seen().phase is Phase.EXITED
    assert not cluster.pods(NAME)


def test_a_stop_before_its_pod_is_made(hand, cluster):
    """No pod is made any more."""
    cluster.controllers.makes_pods = False
    hand.start()

    hand.stop()
    cluster.controllers.makes_pods = True
    cluster.do(cluster.controllers.reconcile, cluster.job(NAME))

    assert hand.ended().failure is FailureKind.CANCELLED
    assert not cluster.pods(NAME)


# --- the engine -----------------------------------------------------------------------------------


def test_the_name_of_the_cluster(hand, connect):
    """It is the cluster's own, with the namespace; another namespace is another engine."""
    assert hand.do(hand.backend.engine_id()) == f"kubernetes:{KUBE_SYSTEM_UID}/{NAMESPACE}"
    other = connect(namespace="other")
    assert other.do(other.backend.engine_id()) == f"kubernetes:{KUBE_SYSTEM_UID}/other"


def test_the_name_of_a_cluster_that_may_not_be_asked(tmp_path):
    """Where the account may not look at kube-system, the address is the name."""
    rules = [rule for rule in documented_rules() if "namespaces" not in rule.resources]
    with StandIn(rules=rules) as cluster, Hand(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as hand:
        assert hand.do(hand.backend.engine_id()) == f"kubernetes:{cluster.url}/{NAMESPACE}"


def test_an_account_that_may_nothing(tmp_path):
    """What it lacks is said; nothing is taken for an empty cluster."""
    with (
        StandIn(rules=[Rule([], [], [])]) as cluster,
        Hand(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as hand,
    ):
        with pytest.raises(EngineUnavailable, match="jobs is forbidden"):
            hand.look()
        with pytest.raises(StartRefused, match="cannot create"):
            hand.start()


def test_an_account_without_events(tmp_path):
    """A pending job is pending all the same, with what its pod says."""
    rules = [rule for rule in documented_rules() if "events" not in rule.resources]
    with StandIn(rules=rules) as cluster, Hand(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as hand:
        hand.start(image="none:1")
        assert "none:1" in hand.seen_as(lambda one: one.note and "none:1" in one.note).note


def test_the_roles_on_the_page_are_exact(hand, cluster):
    """All that is needed is in the Role and the ClusterRole for Jobs, and nothing else is."""
    hand.do(hand.backend.engine_id())
    hand.run("true")
    hand.log()
    hand.outputs()
    hand.do(_hints(hand, 2))  # of the Job and of its pod
    hand.remove()
    hand.begin(STUBBORN, grace_seconds=600)
    hand.stop(grace_seconds=600)  # has the pod patched
    hand.stop(grace_seconds=0)  # has it deleted
    hand.ended()

    rules = documented_rules("upshot", "upshot-identity")
    assert cluster.do(cluster.server.used.copy) == set().union(*(rule.needs for rule in rules))


async def _hints(hand: Hand, number: int) -> list[str]:
    async with hand.hints() as hints:
        return [await anext(hints) for _ in range(number)]


def test_a_cluster_that_goes_away_and_comes_back(hand, cluster):
    """While it is away nothing is known; what ran meanwhile is seen afterwards."""
    hand.begin("echo begun; sleep 0.3; echo done")
    cluster.go_away()
    with pytest.raises(EngineUnavailable, match="does not answer"):
        hand.look()

    cluster.come_back()

    assert hand.ended().exit_code == 0
    assert hand.log().data == b"begun\ndone\n"


def test_a_token_that_is_renewed(cluster, tmp_path):
    """A token that has run out is read again from where it was; one that nobody renews is said to be refused."""
    config = Path(cluster.kubeconfig(tmp_path))
    with Hand(cluster, {"kubeconfig": str(config)}) as hand:
        hand.begin()
        cluster.server.token = "a new one"
        with pytest.raises(EngineUnavailable, match="401: Unauthorized"):
            hand.look()

        config.write_text(config.read_text().replace(TOKEN, "a new one"))

        assert hand.seen().phase is Phase.RUNNING


def test_a_login_by_a_program(cluster, tmp_path):
    """A program of the kubeconfig's gives the token, as those of the large clouds do."""
    said = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": TOKEN},
    }
    (tmp_path / "said").write_text(json.dumps(said))
    program = {"apiVersion": said["apiVersion"], "command": "cat", "args": [str(tmp_path / "said")]}
    config = write_kubeconfig(tmp_path / "config", cluster.url, exec=program)

    with Hand(cluster, {"kubeconfig": config}) as hand:
        assert hand.run("true").exit_code == 0


def test_a_context(cluster, tmp_path):
    """Of a kubeconfig with several, the one that is named is taken; one that is not there is said."""
    config = Path(cluster.kubeconfig(tmp_path))
    both = yaml.safe_load(config.read_text())
    both["contexts"].append({"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}})
    config.write_text(yaml.safe_dump(both))

    with Hand(cluster, {"kubeconfig": str(config), "context": "other"}) as hand:
        assert hand.do(hand.backend.engine_id()).endswith("/elsewhere")
    with (
        Hand(cluster, {"kubeconfig": str(config), "context": "none"}) as hand,
        pytest.raises(EngineUnavailable, match="none"),
    ):
        hand.look()


def test_an_account_of_its_own(cluster, tmp_path, monkeypatch):
    """In a pod of the cluster, the pod's account and namespace are taken; a kubeconfig that is named comes first."""
    namespace = tmp_path / "namespace"
    namespace.write_text("ours\n")
    monkeypatch.setattr(api, "_OWN_NAMESPACE", namespace)

    def load(configuration):
        configuration.host = cluster.url
        configuration.api_key["BearerToken"] = f"Bearer {TOKEN}"

    monkeypatch.setattr(api, "load_incluster_config", load)

    with Hand(cluster, {}) as hand:
        assert hand.do(hand.backend.engine_id()) == f"kubernetes:{KUBE_SYSTEM_UID}/ours"
    with Hand(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as hand:
        assert hand.do(hand.backend.engine_id()).endswith(f"/{NAMESPACE}")


def test_a_cluster_that_answers_nonsense(hand, cluster):
    """An answer that is no JSON is no answer."""
    cluster.do(setattr, cluster.server, "_route", _nonsense)

    with pytest.raises(EngineUnavailable):
        hand.look()


async def _nonsense(*_: object) -> object:
    from aiohttp import web

    return web.Response(text="<html>a proxy says hello</html>")


def test_a_list_in_many_pages(hand, monkeypatch):
    """All jobs are seen, however the API server hands them out; also when the pages have run out on the way."""
    monkeypatch.setattr(api, "PAGE_ITEMS", 2)
    names = [f"upshot-{number}-1" for number in range(5)]
    for name in names:
        hand.start("true", name=name)
    assert set(hand.look()) == set(names)

    hand.cluster.fault("GET .*/jobs.*continue=", status=410, message="The provided continue parameter is too old")

    assert set(hand.look()) == set(names)


# --- hints ----------------------------------------------------------------------------------------


def listen(hand: Hand, heard: list[str]) -> asyncio.Task[None]:
    async def listening() -> None:
        async with hand.hints() as hints:
            async for name in hints:
                heard.append(name)  # noqa: PERF401 - read while it grows

    return asyncio.ensure_future(listening())


@pytest.mark.parametrize(
    "fault", [pytest.param({"event": EXPIRED}, id="in the watch"), pytest.param({"status": 410}, id="in place of it")]
)
def test_a_watch_whose_version_is_too_old(hand, cluster, monkeypatch, fault):
    """When the server has forgotten what happened since, the watch begins again with what is there."""
    monkeypatch.setattr("upshot.backends.kubernetes.cluster.WATCH_SECONDS", 1)
    hand.begin()

    async def play() -> None:
        heard: list[str] = []
        listening = listen(hand, heard)
        async with asyncio.timeout(30):
            while NAME not in heard:
                await asyncio.sleep(0.02)
            heard.clear()
            await asyncio.to_thread(cluster.fault, "GET .*/pods.*watch=true.*resourceVersion=", **fault)
            while NAME not in heard:  # told anew, though nothing has happened to it
                await asyncio.sleep(0.02)
        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])

    hand.do(play())


def test_a_watch_goes_on_from_where_it_was(hand, cluster, monkeypatch):
    """The next watch asks for what happened since the last, and tells nothing twice."""
    monkeypatch.setattr("upshot.backends.kubernetes.cluster.WATCH_SECONDS", 1)
    hand.begin()

    async def play() -> None:
        heard: list[str] = []
        listening = listen(hand, heard)
        async with asyncio.timeout(30):
            while len([line for line in cluster.asked if "watch=true" in line]) < 6:
                await asyncio.sleep(0.02)
        listening.cancel()
        await asyncio.wait([listening])
        assert heard == [NAME, NAME]  # the Job and its pod, as they were at the beginning

    hand.do(play())
    watches = [line for line in cluster.asked if "watch=true" in line]
    assert all("resourceVersion=" in line for line in watches[2:])


def test_a_watch_that_is_cut(hand, cluster):
    """It ends, and says that the cluster does not answer."""
    hand.begin()

    async def play() -> None:
        heard: list[str] = []
        listening = listen(hand, heard)
        async with asyncio.timeout(30):
            while not heard:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(cluster.go_away)
            with pytest.raises(EngineUnavailable):
                await listening

    hand.do(play())


def test_a_watch_that_is_refused(tmp_path):
    """Who may not watch hears so."""
    rules = [Rule(rule.groups, rule.resources, [v for v in rule.verbs if v != "watch"]) for rule in documented_rules()]
    with (
        StandIn(rules=rules) as cluster,
        Hand(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as hand,
        pytest.raises(EngineUnavailable, match="cannot watch"),
    ):
        hand.do(_hints(hand, 1))


def test_an_error_in_a_watch(hand, cluster):
    """What the server says in the middle of a watch ends it."""
    hand.begin()
    event = {
        "type": "ERROR",
        "object": {"kind": "Status", "code": 500, "message": "etcd is away", "reason": "InternalError"},
    }
    cluster.fault("GET .*watch=true", event=event)

    with pytest.raises(EngineUnavailable, match="etcd is away"):
        hand.do(_until_it_ends(hand))


async def _until_it_ends(hand: Hand) -> None:
    async with hand.hints() as hints:
        async for _ in hints:
            pass


def test_nothing_is_loaded_without_need(tmp_path):
    """The client costs memory and time: whoever has no such backend does not load it."""
    import subprocess
    import sys

    program = (
        "import sys, upshot.backends.kubernetes, upshot.cli, upshot.jobs.supervisor;"
        "assert not [name for name in sys.modules if name.startswith('kubernetes_asyncio')]"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert make({})
