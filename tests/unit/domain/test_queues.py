"""The rules of queues: what they give to a job, and what they do not let pass."""

from __future__ import annotations

import posixpath
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.domain.job import JobSpec, MemoryGrowth, Mount, Network, Pull
from upshot.schema.queues import ALL_GPUS, BackendSettings, JobOptions, JobsConfig, MountRule, QueueConfig, QueueLimits

GIB = 2**30


def book(*, defaults=JobOptions(), source="jobs.yaml:7", **ceilings):  # noqa: B008 - frozen
    """A book with one queue."""
    rules = QueueConfig("gpu", defaults=defaults, ceilings=QueueLimits(**ceilings), source=source)
    return JobsConfig(queues={"gpu": rules}, source="jobs.yaml")


def objections(spec, **ceilings):
    return book(**ceilings).objections(spec, "gpu")


# --- what a job is given --------------------------------------------------------------------------


def test_what_an_author_leaves_open_is_the_queue_s():
    """Defaults are filled in, what the author says stands, and mappings and mounts are put together."""
    shared, scratch = Mount("/data/models", "/models"), Mount("/data/scratch", "/scratch")
    mine = Mount("cache", "/scratch", read_only=False)
    defaults = JobOptions(
        cpus=2.0,
        memory_bytes=4 * GIB,
        timeout_seconds=600.0,
        network=Network.NONE,
        env={"A": "1", "B": "2"},
        mounts=(shared, scratch),
    )
    asked = JobOptions(image="busybox", cpus=1.0, env={"B": "3"}, mounts=(mine,))

    spec = book(defaults=defaults).complete(asked, "gpu")

    assert (spec.image, spec.cpus, spec.memory_bytes, spec.timeout_seconds) == ("busybox", 1.0, 4 * GIB, 600.0)
    assert spec.network is Network.NONE
    assert spec.env == {"A": "1", "B": "3"}
    assert spec.mounts == (mine, shared)


def test_where_nobody_says_anything_a_job_is_as_it_is_without_rules():
    """No rule adds anything of its own."""
    rules = JobsConfig(queues={"default": QueueConfig("default", ceilings=QueueLimits(timeout_seconds=None))})

    assert rules.complete(JobOptions(), "default") == JobSpec()


@given(
    st.builds(
        QueueLimits,
        cpus=st.none() | st.floats(0.01, 64),
        memory_bytes=st.none() | st.integers(2**20, 2**40),
        gpus=st.none() | st.integers(0, 8),
        shm_bytes=st.none() | st.integers(2**20, 2**40),
        pids=st.none() | st.integers(1, 10_000),
        timeout_seconds=st.none() | st.floats(1, 604_800),
        grace_seconds=st.none() | st.floats(0, 3600),
        networks=st.frozensets(st.sampled_from(Network), min_size=1),
        pull=st.frozensets(st.sampled_from(Pull), min_size=1),
    )
)
def test_saying_nothing_is_no_way_around_a_ceiling_and_no_way_into_one(ceilings):
    """Whatever the ceilings are, a job that asks for nothing is within them: no limit would be more than any."""
    rules = JobsConfig(queues={"q": QueueConfig("q", ceilings=ceilings)})

    assert rules.objections(rules.complete(JobOptions(image="busybox"), "q"), "q") == ()


# --- what is not let pass -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "ceilings", "says"),
    [
        pytest.param({"cpus": 9.0}, {"cpus": 8.0}, "resources.cpus: 9 processors is more than 8", id="cpus"),
        pytest.param({"cpus": None}, {"cpus": 8.0}, "resources.cpus: no limit is more than 8", id="cpus without end"),
        pytest.param(
            {"memory_bytes": 64 * GIB}, {"memory_bytes": 32 * GIB}, "64GiB is more than 32GiB, the ceiling", id="memory"
        ),
        pytest.param({"memory_bytes": None}, {"memory_bytes": GIB}, "no limit is more than 1GiB", id="no limit"),
        pytest.param({"gpus": 3}, {"gpus": 2}, "resources.gpus: 3 GPUs is more than 2", id="gpus"),
        pytest.param({"gpus": ALL_GPUS}, {"gpus": 2}, "all GPUs is more than 2", id="all gpus"),
        pytest.param({"shm_bytes": 2 * GIB}, {"shm_bytes": GIB}, "resources.shm: 2GiB is more than 1GiB", id="shm"),
        pytest.param({"pids": 5000}, {"pids": 4096}, "resources.pids: 5000 processes", id="pids"),
        pytest.param(
            {"timeout_seconds": 7200.0}, {"timeout_seconds": 3600.0}, "timeout: 2h is more than 1h", id="time"
        ),
        pytest.param({"grace_seconds": 60.0}, {"grace_seconds": 30.0}, "grace: 1m is more than 30s", id="grace"),
        pytest.param({"network": Network.HOST}, {}, "network: host is not allowed; bridge or none is", id="host"),
        pytest.param({"privileged": True}, {}, "privileged: a privileged job is root on the machine", id="privileged"),
        pytest.param({"pull": Pull.ALWAYS}, {"pull": frozenset({Pull.NEVER})}, "always is not allowed", id="pull"),
        pytest.param(
            {"image": "evil.example.com/x"},
            {"images": ("ghcr.io/acme/*", "busybox")},
            "image: evil.example.com/x is not allowed; busybox or ghcr.io/acme/* is",
            id="image",
        ),
        pytest.param({"image": "busybox"}, {"images": ()}, "busybox is not allowed; none is", id="no image at all"),
        pytest.param({"user": None}, {"non_root": True}, "the image's own user may be root", id="the image's user"),
        pytest.param({"user": "root"}, {"non_root": True}, "'root' is root, or may be", id="root"),
        pytest.param({"user": "0:1000"}, {"non_root": True}, "is root", id="root by number"),
        pytest.param({"user": "000"}, {"non_root": True}, "is root", id="root by more zeros"),
        pytest.param({"user": "app"}, {"non_root": True}, "or may be", id="whom the image may make root"),
        pytest.param({"user": "٣"}, {"non_root": True}, "or may be", id="a digit of another script"),
        pytest.param(
            {"options": {"node-selector": {}, "tolerations": []}},
            {"options": frozenset({"tolerations"})},
            "kubernetes.node-selector: an author may not set this; tolerations may be set",
            id="options",
        ),
    ],
)
def test_what_exceeds_a_ceiling_is_said_with_the_ceiling_and_its_place(asked, ceilings, says):
    """What is asked, what is allowed, where that is set, and what to do."""
    (objection,) = objections(replace(JobSpec(timeout_seconds=60), **asked), **ceilings)

    assert says in objection
    assert "(ceilings of queue 'gpu' in jobs.yaml:7); " in objection


def test_what_reaches_a_ceiling_is_within_it():
    """A ceiling is the most that is allowed, not the least that is not."""
    spec = JobSpec(
        image="ghcr.io/acme/a:1",
        cpus=8.0,
        memory_bytes=GIB,
        gpus=2,
        timeout_seconds=3600.0,
        user="1000:0",
        mounts=(
            Mount("/data/models/a", "/m"),
            Mount("/scratch/", "/s", read_only=False),
            Mount("vol", "/v", read_only=False),
        ),
    )
    ceilings = QueueLimits(
        cpus=8.0,
        memory_bytes=GIB,
        gpus=2,
        timeout_seconds=3600.0,
        images=("ghcr.io/acme/*",),
        non_root=True,
        mounts=(MountRule("/data/models"), MountRule("/scratch", writable=True), MountRule("vol", writable=True)),
    )

    assert JobsConfig(queues={"q": QueueConfig("q", ceilings=ceilings)}).objections(spec, "q") == ()


@pytest.mark.parametrize(
    ("mount", "says"),
    [
        pytest.param(
            Mount("/data-secret", "/m"), "/data-secret may not be mounted; /data, /data/rw, /rw or vol may", id="beside"
        ),
        pytest.param(Mount("/", "/m"), "/ is the machine's whole file system", id="root"),
        pytest.param(Mount("//", "/m"), "the machine's whole file system", id="root twice"),
        pytest.param(Mount("/data/..", "/m"), "the machine's whole file system", id="root by a detour"),
        pytest.param(Mount("/data/../etc", "/m"), "/etc may not be mounted", id="out of it"),
        pytest.param(Mount("//data", "/m"), "may not be mounted", id="two slashes are another root"),
        pytest.param(Mount("/var/run/docker.sock", "/s"), "is the engine itself", id="the engine's socket"),
        pytest.param(Mount("/run/podman/podman.sock", "/s"), "is the engine itself", id="another engine's"),
        pytest.param(Mount("/data/x", "/m", read_only=False), "/data/x may be mounted to be read only", id="writing"),
        pytest.param(
            Mount("/rw/link", "/m"), "in /rw, where jobs may write, and so leave a link", id="a link of a job's"
        ),
        pytest.param(Mount("/data/rw/link", "/m"), "in /data/rw, where jobs may write", id="a link in a folder within"),
        pytest.param(Mount("volume", "/m"), "volume may not be mounted", id="another volume"),
        pytest.param(Mount("data", "/m"), "data may not be mounted", id="a volume named as a folder"),
    ],
)
def test_what_is_not_allowed_cannot_be_mounted(mount, says):
    """Neither what is beside an allowed folder nor what a path leads to by a detour."""
    allowed = (
        MountRule("/data"),
        MountRule("/rw", writable=True),
        MountRule("/data/rw", writable=True),
        MountRule("vol"),
    )

    (objection,) = objections(JobSpec(mounts=(mount,)), mounts=allowed)

    assert says in objection
    assert objection.startswith("mounts.0: ")


@given(st.lists(st.sampled_from(["data", "..", ".", "", "data-x", "models"]), max_size=6).map("/".join))
def test_whatever_the_path_only_what_lies_below_is_allowed(path):
    """However a path is written, what is allowed begins with the allowed folder's parts."""
    whole = posixpath.normpath(f"/{path}")
    is_below = whole == "/data" or whole.startswith("/data/")

    assert MountRule("/data").allows(Mount(f"/{path}", "/m")) is is_below or f"/{path}".startswith("//")


@pytest.mark.parametrize(
    "writers",
    [
        pytest.param(
            QueueConfig("w", ceilings=QueueLimits(mounts=(MountRule("/data/w", writable=True),))), id="allowed"
        ),
        pytest.param(
            QueueConfig("w", defaults=JobOptions(mounts=(Mount("/data/w", "/w", read_only=False),))), id="given"
        ),
    ],
)
def test_what_jobs_of_another_queue_may_write_to_is_no_way_out_either(writers):
    """A link that one queue's job leaves is not followed by another's."""
    readers = QueueConfig("r", ceilings=QueueLimits(mounts=(MountRule("/data"),)))
    rules = JobsConfig(queues={"w": writers, "r": readers})

    assert rules.objections(JobSpec(mounts=(Mount("/data/w/link", "/m"),)), "r")
    assert rules.objections(JobSpec(mounts=(Mount("/data/w", "/m"), Mount("/data/x", "/x"))), "r") == ()


def test_a_mount_of_the_queue_s_own_needs_no_leave():
    """What the operator gives to every job need not be allowed to authors as well."""
    shared = Mount("/srv/models", "/models")
    rules = book(defaults=JobOptions(mounts=(shared,)))

    assert rules.objections(rules.complete(JobOptions(image="busybox"), "gpu"), "gpu") == ()
    assert rules.objections(JobSpec(mounts=(replace(shared, read_only=False),)), "gpu")


def test_without_an_operator_s_file_there_is_one_careful_queue():
    """Docker, four at a time on a machine; no privileges, nothing of the machine, no host network, a day at most."""
    rules = JobsConfig()

    assert (list(rules.queues), list(rules.backends)) == (["default"], ["docker"])
    assert rules.queues["default"].per_machine == 4
    for spec in (
        JobSpec(privileged=True),
        JobSpec(mounts=(Mount("/data", "/data"),)),
        JobSpec(network=Network.HOST),
        JobSpec(timeout_seconds=86_401.0),
    ):
        (objection,) = rules.objections(spec, "default")
        assert "UPSHOT_JOBS_FILE" in objection


def test_a_queue_that_there_is_not_forbids_everything():
    """A machine whose file lacks the queue of a job does not start it."""
    (objection,) = book().objections(JobSpec(), "gpuu")

    assert objection == "queue: jobs.yaml declares no queue 'gpuu'; did you mean 'gpu'?"


@pytest.mark.parametrize(
    ("backend", "priority", "places"),
    [
        pytest.param("docker", 5, [], id="its own"),
        pytest.param("spare", 10, [], id="one that is allowed"),
        pytest.param("cluster", 5, ["backend"], id="another's"),
        pytest.param("docker", 11, ["priority"], id="too important"),
    ],
)
def test_a_queue_s_jobs_run_where_and_when_it_says(backend, priority, places):
    """An author cannot take a job to another engine, nor push it to the front."""
    backends = {name: BackendSettings("docker") for name in ("docker", "spare", "cluster")}
    rules = QueueConfig("gpu", ceilings=QueueLimits(backends=frozenset({"spare"}), priority=10))
    found = JobsConfig(backends=backends, queues={"gpu": rules}).choice_objections("gpu", backend, priority)

    assert [place for place, _ in found] == places


# --- more memory for another try ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has", "growth", "ceiling", "then"),
    [
        pytest.param(2, MemoryGrowth(2.0), None, 4, id="twice as much"),
        pytest.param(2, MemoryGrowth(4.0, up_to_bytes=5 * GIB), None, 5, id="as far as was asked"),
        pytest.param(2, MemoryGrowth(4.0), 3, 3, id="as far as the ceiling"),
        pytest.param(3, MemoryGrowth(4.0), 3, None, id="there is no more"),
        pytest.param(5, MemoryGrowth(2.0, up_to_bytes=5 * GIB), None, None, id="no more was asked for"),
        pytest.param(None, MemoryGrowth(2.0), None, None, id="it had no limit"),
    ],
)
def test_memory_grows_within_what_was_asked_and_allowed(has, growth, ceiling, then):
    """Never beyond the ceiling; None where another try would have no more than this one."""
    rules = book(memory_bytes=ceiling and ceiling * GIB)
    spec = JobSpec(memory_bytes=has and has * GIB)

    grown = rules.grow(spec, growth, "gpu")

    assert (grown and grown.memory_bytes) == (then and then * GIB)
