"""Queues: what they give to a job, and what they forbid."""

from __future__ import annotations

import posixpath
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.domain.job import ALL_GPUS, JobSpec, MemoryGrowth, Mount, Network, Pull
from upshot.schema.queue_limits import MountRule, QueueLimits
from upshot.schema.queues import BackendSettings, JobsConfig, QueueConfig

GIB = 2**30


def config_with(limits=QueueLimits(), **defaults):  # noqa: B008 - frozen
    """Return a configuration with one queue."""
    queue = QueueConfig("gpu", defaults=defaults, limits=limits, source="jobs.yaml:7")
    return JobsConfig(queues={"gpu": queue}, source="jobs.yaml")


def violations(spec, **limits):
    return config_with(QueueLimits(limits)).violations(spec, "gpu")


# --- defaults -------------------------------------------------------------------------------------


def test_a_queue_completes_what_a_step_leaves_out():
    """Defaults fill in missing options, options of the step stay, and mappings and mounts are merged."""
    shared, scratch = Mount("/data/models", "/models"), Mount("/data/scratch", "/scratch")
    own = Mount("cache", "/scratch", read_only=False)
    config = config_with(
        cpus=2.0,
        memory_bytes=4 * GIB,
        timeout_seconds=600.0,
        network=Network.NONE,
        env={"A": "1", "B": "2"},
        mounts=(shared, scratch),
    )

    spec = config.apply_defaults({"image": "busybox", "cpus": 1.0, "env": {"B": "3"}, "mounts": (own,)}, "gpu")

    assert (spec.image, spec.cpus, spec.memory_bytes, spec.timeout_seconds) == ("busybox", 1.0, 4 * GIB, 600.0)
    assert spec.network is Network.NONE
    assert spec.env == {"A": "1", "B": "3"}
    assert spec.mounts == (own, shared)


def test_a_queue_without_defaults_and_limits_changes_nothing():
    """The job has the declared defaults of all options."""
    assert config_with(QueueLimits({"timeout_seconds": None})).apply_defaults({}, "gpu") == JobSpec()


@given(
    st.fixed_dictionaries(
        {
            "cpus": st.none() | st.floats(0.01, 64),
            "memory_bytes": st.none() | st.integers(2**20, 2**40),
            "gpus": st.none() | st.integers(ALL_GPUS, 8),
            "shm_bytes": st.none() | st.integers(2**20, 2**40),
            "pids": st.none() | st.integers(1, 10_000),
            "timeout_seconds": st.none() | st.floats(1, 604_800),
            "grace_seconds": st.none() | st.floats(0, 3600),
            "network": st.frozensets(st.sampled_from(Network), min_size=1),
            "pull": st.frozensets(st.sampled_from(Pull), min_size=1),
        }
    )
)
def test_a_job_that_sets_no_option_is_within_all_limits(limits):
    """Setting no amount neither evades a limit nor violates it."""
    config = config_with(QueueLimits(limits))

    assert config.violations(config.apply_defaults({"image": "busybox"}, "gpu"), "gpu") == ()


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "limits", "message"),
    [
        pytest.param(
            {"cpus": 9.0},
            {"cpus": 8.0},
            "resources.cpus: 9 processors is more than the limit of 8 processors",
            id="cpus",
        ),
        pytest.param(
            {"cpus": None},
            {"cpus": 8.0},
            "resources.cpus: a job without a maximum exceeds the limit of 8",
            id="unlimited cpus",
        ),
        pytest.param(
            {"memory_bytes": 64 * GIB}, {"memory_bytes": 32 * GIB}, "64GiB is more than the limit of 32GiB", id="memory"
        ),
        pytest.param(
            {"memory_bytes": None},
            {"memory_bytes": GIB},
            "without a maximum exceeds the limit of 1GiB",
            id="unlimited memory",
        ),
        pytest.param({"gpus": 3}, {"gpus": 2}, "resources.gpus: 3 GPUs is more than the limit of 2 GPUs", id="gpus"),
        pytest.param({"gpus": ALL_GPUS}, {"gpus": 2}, "all GPUs is more than the limit of 2 GPUs", id="all gpus"),
        pytest.param(
            {"shm_bytes": 2 * GIB}, {"shm_bytes": GIB}, "resources.shm: 2GiB is more than the limit of 1GiB", id="shm"
        ),
        pytest.param({"pids": 5000}, {"pids": 4096}, "resources.pids: 5000 processes", id="pids"),
        pytest.param(
            {"timeout_seconds": 7200.0},
            {"timeout_seconds": 3600.0},
            "timeout: 2h is more than the limit of 1h",
            id="time",
        ),
        pytest.param(
            {"grace_seconds": 60.0}, {"grace_seconds": 30.0}, "grace: 1m is more than the limit of 30s", id="grace"
        ),
        pytest.param({"network": Network.HOST}, {}, "network: host is not allowed; bridge or none is", id="host"),
        pytest.param({"privileged": True}, {}, "privileged: a privileged job is root on the machine", id="privileged"),
        pytest.param(
            {"capabilities": ("CHOWN", "SYS_ADMIN")},
            {"capabilities": frozenset({"CHOWN"})},
            "capabilities.1: SYS_ADMIN is not allowed; CHOWN is",
            id="capability",
        ),
        pytest.param(
            {"capabilities": ("CHOWN",)}, {}, "capabilities.0: CHOWN is not allowed; nothing is", id="no capability"
        ),
        pytest.param({"pull": Pull.ALWAYS}, {"pull": frozenset({Pull.NEVER})}, "always is not allowed", id="pull"),
        pytest.param(
            {"image": "evil.example.com/x"},
            {"image": ("ghcr.io/acme/*", "busybox")},
            "image: evil.example.com/x is not allowed; busybox or ghcr.io/acme/* is",
            id="image",
        ),
        pytest.param({"image": "busybox"}, {"image": ()}, "busybox is not allowed; none is", id="no image at all"),
        pytest.param({"user": None}, {"user": True}, "the image's own user may be root", id="the image's user"),
        pytest.param({"user": "root"}, {"user": True}, "'root' is root, or may be root", id="root"),
        pytest.param({"user": "0:1000"}, {"user": True}, "is root", id="root by number"),
        pytest.param({"user": "000"}, {"user": True}, "is root", id="root by more zeros"),
        pytest.param({"user": "app"}, {"user": True}, "or may be root", id="a name, which can be root in the image"),
        pytest.param({"user": "٣"}, {"user": True}, "or may be root", id="a digit of another script"),
        pytest.param(
            {"kubernetes": {"node-selector": {}, "tolerations": []}},
            {"kubernetes": frozenset({"tolerations"})},
            "kubernetes.node-selector: a step cannot set this; it can set tolerations",
            id="kubernetes settings",
        ),
    ],
)
def test_exceeding_a_limit_is_a_violation(options, limits, message):
    """The message says what was asked for, what the limit is, where it is set, and what to do."""
    (violation,) = violations(replace(JobSpec(timeout_seconds=60), **options), **limits)

    assert message in violation
    assert "(limits of queue 'gpu' in jobs.yaml:7); " in violation


def test_reaching_a_limit_is_allowed():
    """A limit is the largest allowed value."""
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
    mounts = (MountRule("/data/models"), MountRule("/scratch", writable=True), MountRule("vol", writable=True))

    found = violations(
        spec,
        cpus=8.0,
        memory_bytes=GIB,
        gpus=2,
        timeout_seconds=3600.0,
        image=("ghcr.io/acme/*",),
        user=True,
        mounts=mounts,
    )

    assert found == ()


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        pytest.param(
            Mount("/data-secret", "/m"), "/data-secret cannot be mounted; /data, /data/rw, /rw or vol can", id="similar"
        ),
        pytest.param(Mount("/", "/m"), "/ is the machine's whole file system", id="root"),
        pytest.param(Mount("//", "/m"), "the machine's whole file system", id="root, written //"),
        pytest.param(Mount("/data/..", "/m"), "the machine's whole file system", id="root, through a parent"),
        pytest.param(Mount("/data/../etc", "/m"), "/etc cannot be mounted", id="through a parent"),
        pytest.param(Mount("//data", "/m"), "cannot be mounted", id="two slashes are another root"),
        pytest.param(Mount("/var/run/docker.sock", "/s"), "is the engine itself", id="socket of Docker"),
        pytest.param(Mount("/run/podman/podman.sock", "/s"), "is the engine itself", id="socket of Podman"),
        pytest.param(Mount("/data/x", "/m", read_only=False), "/data/x can only be mounted read-only", id="writable"),
        pytest.param(
            Mount("/rw/link", "/m"), "/rw/link is in /rw, where a job can leave a link", id="below a writable directory"
        ),
        pytest.param(
            Mount("/data/rw/link", "/m"), "in /data/rw, where a job can leave a link", id="below a nested directory"
        ),
        pytest.param(Mount("volume", "/m"), "volume cannot be mounted", id="another volume"),
        pytest.param(Mount("data", "/m"), "data cannot be mounted", id="volume with the name of a directory"),
    ],
)
def test_only_allowed_sources_can_be_mounted(mount, message):
    """A path cannot lead out of an allowed directory, and a similar name is not enough."""
    allowed = (
        MountRule("/data"),
        MountRule("/rw", writable=True),
        MountRule("/data/rw", writable=True),
        MountRule("vol"),
    )

    (violation,) = violations(JobSpec(mounts=(mount,)), mounts=allowed)

    assert message in violation
    assert violation.startswith("mounts.0: ")


@given(st.lists(st.sampled_from(["data", "..", ".", "", "data-x", "models"]), max_size=6).map("/".join))
def test_a_rule_allows_exactly_what_is_below_its_directory(path):
    """This holds however the path is written."""
    normalized = posixpath.normpath(f"/{path}")
    is_below = normalized == "/data" or normalized.startswith("/data/")

    assert MountRule("/data").allows(Mount(f"/{path}", "/m")) is is_below or f"/{path}".startswith("//")


@pytest.mark.parametrize(
    "writer",
    [
        pytest.param(
            QueueConfig("w", limits=QueueLimits({"mounts": (MountRule("/data/w", writable=True),)})), id="allowed"
        ),
        pytest.param(
            QueueConfig("w", defaults={"mounts": (Mount("/data/w", "/w", read_only=False),)}), id="given by default"
        ),
    ],
)
def test_a_queue_cannot_mount_what_is_below_a_writable_directory_of_another_queue(writer):
    """A job of one queue could leave a link there for a job of the other queue."""
    reader = QueueConfig("r", limits=QueueLimits({"mounts": (MountRule("/data"),)}))
    config = JobsConfig(queues={"w": writer, "r": reader})

    assert config.violations(JobSpec(mounts=(Mount("/data/w/link", "/m"),)), "r")
    assert config.violations(JobSpec(mounts=(Mount("/data/w", "/m"), Mount("/data/x", "/x"))), "r") == ()


def test_a_queue_s_default_mount_does_not_need_permission():
    """What the operator gives to every job does not have to be allowed to authors as well."""
    shared = Mount("/srv/models", "/models")
    config = config_with(mounts=(shared,))

    assert config.violations(config.apply_defaults({"image": "busybox"}, "gpu"), "gpu") == ()
    assert config.violations(JobSpec(mounts=(replace(shared, read_only=False),)), "gpu")


def test_without_an_operator_s_file_there_is_one_restricted_queue():
    """It uses Docker, and allows four jobs on a machine, a day at most, and no access to the machine."""
    config = JobsConfig()

    assert (list(config.queues), list(config.backends)) == (["default"], ["docker"])
    assert config.queues["default"].per_machine == 4
    for spec in (
        JobSpec(privileged=True),
        JobSpec(mounts=(Mount("/data", "/data"),)),
        JobSpec(network=Network.HOST),
        JobSpec(timeout_seconds=86_401.0),
    ):
        (violation,) = config.violations(spec, "default")
        assert "UPSHOT_JOBS_FILE" in violation


def test_without_restrictions_everything_is_allowed():
    """A queue with a mistake in its declaration does not cause errors in automations."""
    spec = JobSpec(privileged=True, mounts=(Mount("/etc", "/e"),), network=Network.HOST, timeout_seconds=86_401.0)

    assert config_with(QueueLimits.without_restrictions()).violations(spec, "gpu") == ()


def test_an_unknown_queue_forbids_everything():
    """A machine whose file lacks the queue of a job does not start the job."""
    (violation,) = config_with().violations(JobSpec(), "gpuu")

    assert violation == "queue: jobs.yaml declares no queue 'gpuu'; did you mean 'gpu'?"


@pytest.mark.parametrize(
    ("backend", "priority", "paths"),
    [
        pytest.param("docker", 5, [], id="the queue's own backend"),
        pytest.param("spare", 10, [], id="an allowed backend"),
        pytest.param("cluster", 5, ["backend"], id="another backend"),
        pytest.param("docker", 11, ["priority"], id="priority too high"),
    ],
)
def test_a_queue_limits_backends_and_priorities(backend, priority, paths):
    """A step cannot move its job to any backend, nor to the front of the queue."""
    backends = {name: BackendSettings("docker") for name in ("docker", "spare", "cluster")}
    queue = QueueConfig("gpu", limits=QueueLimits(backends=frozenset({"spare"}), priority=10))
    found = JobsConfig(backends=backends, queues={"gpu": queue}).choice_violations("gpu", backend, priority)

    assert [path for path, _ in found] == paths


# --- more memory for the next attempt -------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "growth", "limit", "after"),
    [
        pytest.param(2, MemoryGrowth(2.0), None, 4, id="by the factor"),
        pytest.param(2, MemoryGrowth(4.0, up_to_bytes=5 * GIB), None, 5, id="up to the maximum of the step"),
        pytest.param(2, MemoryGrowth(4.0), 3, 3, id="up to the limit of the queue"),
        pytest.param(3, MemoryGrowth(4.0), 3, None, id="at the limit of the queue"),
        pytest.param(5, MemoryGrowth(2.0, up_to_bytes=5 * GIB), None, None, id="at the maximum of the step"),
        pytest.param(None, MemoryGrowth(2.0), None, None, id="without a limit"),
    ],
)
def test_memory_grows_within_the_limits(before, growth, limit, after):
    """The result is None if the next attempt would not have more memory than this one."""
    config = config_with(QueueLimits({"memory_bytes": limit and limit * GIB}))
    spec = JobSpec(memory_bytes=before and before * GIB)

    grown = config.with_more_memory(spec, growth, "gpu")

    assert (grown and grown.memory_bytes) == (after and after * GIB)
