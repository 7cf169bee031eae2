"""The operator's file: what it declares, and how mistakes in it are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from upshot.domain.job import ALL_GPUS, Mount, Network, Pull
from upshot.errors import ConfigError
from upshot.schema.queue_limits import MountRule, QueueLimits
from upshot.schema.queues import BackendSettings, JobsConfig, QueueConfig
from upshot.settings import Settings
from upshot.wiring.jobs_file import load_jobs_config, read_jobs_config

COMPLETE = """\
machine: {parallel: 8}
backends:
  cluster: {uses: kubernetes, namespace: ml}
  process:
    user: jobs
queues:
  default:
    description: small jobs
    defaults:
      resources: {cpus: 2, memory: 4GiB}
      timeout: 1h
      mounts: [{source: /srv/models, target: /models}]
      priority: 1
    limits:
      resources: {cpus: 8, memory: 32GiB, gpus: 0, shm: 1GiB, pids: 100}
      timeout: 6h
      grace: 1m
      networks: [none]
      mounts: [/data/models/, "/scratch:rw", "vol:ro"]
      privileged: true
      images: ["ghcr.io/acme/*"]
      non-root: true
      priority: 10
      pull: [never]
      backends: [process]
      kubernetes: [tolerations]
  gpu-a100: {concurrency: 4, backend: cluster}
  both: {concurrency: 4, per-machine: 2, limits: {resources: {gpus: all}}}
  empty:
"""


def load(tmp_path, text):
    """Return what a file with this text declares, and the mistakes in it."""
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    return load_jobs_config(path)


def mistakes(tmp_path, text):
    """Return line and reason of each mistake."""
    return [(error.line, error.reason) for error in load(tmp_path, text)[1]]


def test_every_key_is_read(tmp_path):
    """The configuration also has the line of each queue and backend, for messages."""
    config, errors = load(tmp_path, COMPLETE)
    path = (tmp_path / "jobs.yaml").as_posix()

    assert errors == ()
    assert config == JobsConfig(
        machine_limit=8,
        backends={
            "docker": BackendSettings("docker"),
            "cluster": BackendSettings("kubernetes", {"namespace": "ml"}, f"{path}:3"),
            "process": BackendSettings("process", {"user": "jobs"}, f"{path}:4"),
        },
        queues={
            "default": QueueConfig(
                "default",
                description="small jobs",
                defaults={
                    "cpus": 2.0,
                    "memory_bytes": 4 * 2**30,
                    "timeout_seconds": 3600.0,
                    "mounts": (Mount("/srv/models", "/models"),),
                },
                priority=1,
                limits=QueueLimits(
                    {
                        "image": ("ghcr.io/acme/*",),
                        "cpus": 8.0,
                        "memory_bytes": 32 * 2**30,
                        "gpus": 0,
                        "shm_bytes": 2**30,
                        "pids": 100,
                        "timeout_seconds": 21_600.0,
                        "grace_seconds": 60.0,
                        "network": frozenset({Network.NONE}),
                        "user": True,
                        "privileged": True,
                        "mounts": (MountRule("/data/models"), MountRule("/scratch", writable=True), MountRule("vol")),
                        "pull": frozenset({Pull.NEVER}),
                        "kubernetes": frozenset({"tolerations"}),
                    },
                    priority=10,
                    backends=frozenset({"process"}),
                ),
                source=f"{path}:14",
            ),
            "gpu-a100": QueueConfig(
                "gpu-a100", concurrency=4, per_machine=None, backend="cluster", source=f"{path}:27"
            ),
            "both": QueueConfig(
                "both", concurrency=4, per_machine=2, limits=QueueLimits({"gpus": ALL_GPUS}), source=f"{path}:28"
            ),
            "empty": QueueConfig("empty", source=f"{path}:29"),
        },
        source=path,
    )


def test_the_options_of_a_backend_are_plain_data(tmp_path):
    """They contain what the file says, without its line numbers."""
    config, _ = load(tmp_path, "backends: {docker: {tls: {ca: a.pem}}}")

    assert type(config.backends["docker"].options["tls"]) is dict


def test_a_file_without_queues_keeps_the_default_queue(tmp_path):
    """It can declare only backends."""
    config, errors = load(tmp_path, "backends: {docker: {host: unix:///run/docker.sock}}")

    assert errors == ()
    assert list(config.queues) == ["default"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param(
            "", None, "the file must be one mapping with `machine`, `backends` and `queues`, not null", id="empty"
        ),
        pytest.param("- a", 1, "not a list", id="a list"),
        pytest.param("queues: {}\n---\nqueues: {}", 3, "not 2 documents", id="two documents"),
        pytest.param("queues: &a {}", 1, "anchors and aliases are not allowed", id="anchor"),
        pytest.param("queues: {a: }\nqueues: {b: }", 2, "appears twice; the first is on line 1", id="duplicate key"),
        pytest.param("\nqueue: {}", 2, "queue: unknown key; did you mean 'queues'?", id="unknown key"),
        pytest.param("machine: {paralel: 8}", 1, "did you mean 'parallel'?", id="unknown key in a mapping"),
        pytest.param("machine: {parallel: 0}", 1, "machine.parallel: must be from 1", id="no jobs"),
        pytest.param(
            "queues: [default]",
            1,
            "queues: must be a mapping of names to their settings, not a list",
            id="queues as a list",
        ),
        pytest.param("queues:\n  a b: {}", 2, "is not a name", id="name of a queue"),
        pytest.param("queues:\n  events: {}", 2, "`events` is reserved for answering events", id="events"),
        pytest.param("queues:\n  gpu: 4", 2, "queues.gpu: must be a mapping, not the number 4", id="a number"),
        pytest.param("queues:\n  gpu: {per-machne: 4}", 2, "did you mean 'per-machine'?", id="key of a queue"),
        pytest.param("queues:\n  gpu: {memory: 4GiB}", 2, "queues.gpu.memory: unknown key", id="key of a job"),
        pytest.param(
            "queues:\n  gpu:\n    limits:\n      memory: 4GiB",
            4,
            "queues.gpu.limits.memory: unknown key; write it under `resources`",
            id="one level too high",
        ),
        pytest.param(
            "queues:\n  gpu:\n    defaults:\n      resources:\n        memory: 4Gi",
            5,
            "queues.gpu.defaults.resources.memory: the string '4Gi' is not a size; write 4GiB",
            id="size",
        ),
        pytest.param(
            "queues:\n  gpu: {defaults: {image: a}}", 2, "queues.gpu.defaults.image: unknown key", id="default image"
        ),
        pytest.param("queues:\n  gpu: {limits: {mounts: /data}}", 2, "must be a list; write [/data]", id="not a list"),
        pytest.param("queues:\n  gpu: {limits: {mounts: [data/x]}}", 2, "is not absolute", id="relative"),
        pytest.param("queues:\n  gpu: {limits: {mounts: [/a/../b]}}", 2, "contains `..`", id="parent directory"),
        pytest.param("queues:\n  gpu: {limits: {networks: []}}", 2, "which would allow nothing", id="no network"),
        pytest.param("queues:\n  gpu: {limits: {networks: [hots]}}", 2, "'none', 'bridge' or 'host'", id="network"),
        pytest.param(
            'queues:\n  gpu:\n    defaults:\n      env: {A: "{{ secrets.B }}"}',
            4,
            "queues.gpu.defaults.env.A: only automations can contain templates",
            id="template",
        ),
        pytest.param("backends:\n  podman: {host: x}", 2, "backends.podman: `uses` is required", id="no uses"),
        pytest.param("backends:\n  a: {uses: kuberntes}", 2, "did you mean 'kubernetes'?", id="unknown backend"),
        pytest.param(
            "queues:\n  gpu: {backend: dokcer}",
            2,
            "declares no backend 'dokcer'; did you mean",
            id="unknown backend of a queue",
        ),
        pytest.param(
            "queues:\n  gpu: {limits: {backends: [x]}}",
            2,
            "queues.gpu.limits.backends: ",
            id="unknown backend in the limits",
        ),
        pytest.param(
            "queues:\n  gpu:\n    defaults:\n      resources: {cpus: 9}\n    limits:\n      resources: {cpus: 8}",
            4,
            "queues.gpu.defaults.resources.cpus: 9 processors is more than the limit of 8 processors",
            id="default above the limit",
        ),
        pytest.param(
            "queues:\n  gpu: {defaults: {user: root}, limits: {non-root: true}}",
            2,
            "queues.gpu.defaults.user: 'root' is root",
            id="root by default",
        ),
        pytest.param(
            "queues:\n  gpu: {defaults: {priority: 5}, limits: {priority: 1}}",
            2,
            "queues.gpu.defaults.priority: 5 is more than the limit of 1",
            id="priority by default",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_a_remedy(tmp_path, text, line, message):
    """Mistakes are reported as in the files of automations."""
    (found,) = mistakes(tmp_path, text)

    assert found[0] == line
    assert message in found[1]


def test_all_mistakes_are_reported_at_once(tmp_path):
    """A mistake in one queue does not hide a mistake, or a contradiction, in another queue."""
    text = "machin: 1\nbackends: {a: 5}\nqueues:\n  one: {x: 1}\n  two: {backend: nowhere}\n  three: {concurrency: 0}\n"

    assert [line for line, _ in mistakes(tmp_path, text)] == [1, 2, 4, 5, 6]


def test_a_queue_with_a_mistake_exists_and_forbids_nothing(tmp_path):
    """Automations that use it are not reported as well."""
    config, errors = load(tmp_path, "queues: {gpu: {x: 1}}")

    assert errors
    options = {"image": "busybox", "privileged": True, "mounts": (Mount("/etc", "/e"),)}
    assert config.violations(config.apply_defaults(options, "gpu"), "gpu") == ()


# --- which file is read ---------------------------------------------------------------------------


def test_without_a_file_the_built_in_configuration_applies(tmp_path):
    """An operator does not have to write a file."""
    assert read_jobs_config(Settings(data=tmp_path)) == JobsConfig()


def test_the_file_in_the_data_directory_is_the_default(tmp_path):
    """It is `jobs.yaml`. A file that the settings name takes precedence."""
    named = tmp_path / "named.yaml"
    named.write_text("queues: {named: }")
    (tmp_path / "jobs.yaml").write_text("queues: {found: }")

    assert list(read_jobs_config(Settings(data=tmp_path)).queues) == ["found"]
    assert list(read_jobs_config(Settings(data=tmp_path, jobs_file=named)).queues) == ["named"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("nowhere.yaml", "the file does not exist; UPSHOT_JOBS_FILE", id="missing"),
        pytest.param(".", "the file cannot be read", id="a directory"),
    ],
)
def test_a_file_that_the_settings_name_must_exist(tmp_path, path, message):
    """A wrong path must not leave jobs without limits."""
    with pytest.raises(ConfigError, match=message):
        read_jobs_config(Settings(data=tmp_path, jobs_file=tmp_path / path))


def test_a_file_with_mistakes_is_refused(tmp_path):
    """The error lists all mistakes. A worker that used only a part of the file would allow too much."""
    (tmp_path / "jobs.yaml").write_text("queues:\n  a: {x: 1}\n  b: {y: 1}\n")

    with pytest.raises(ConfigError) as raised:
        read_jobs_config(Settings(data=Path(tmp_path)))

    first, second = str(raised.value).splitlines()
    assert first.startswith(f"{(tmp_path / 'jobs.yaml').as_posix()}:2: ")
    assert second.startswith(f"{(tmp_path / 'jobs.yaml').as_posix()}:3: ")
