"""The operator's file: what it says, and what is said of mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from upshot.domain.job import Mount, Network, Pull
from upshot.errors import ConfigError
from upshot.schema.queues import BackendSettings, JobOptions, JobsConfig, MountRule, QueueConfig, QueueLimits
from upshot.settings import Settings
from upshot.wiring.jobs_file import load_queue_book, read_queue_book

WHOLE = """\
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
    ceilings:
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
  both: {concurrency: 4, per-machine: 2, ceilings: {resources: {gpus: all}}}
  least:
"""


def loaded(tmp_path, text):
    """What a file of this text says, and what is wrong with it."""
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    return load_queue_book(path)


def mistakes(tmp_path, text):
    """Lines and reasons of what is wrong."""
    return [(error.line, error.reason) for error in loaded(tmp_path, text)[1]]


def test_a_whole_file_is_read(tmp_path):
    """Every key arrives in the rules, with its place for messages."""
    book, errors = loaded(tmp_path, WHOLE)
    path = (tmp_path / "jobs.yaml").as_posix()

    assert errors == ()
    assert book == JobsConfig(
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
                defaults=JobOptions(
                    cpus=2.0,
                    memory_bytes=4 * 2**30,
                    timeout_seconds=3600.0,
                    mounts=(Mount("/srv/models", "/models"),),
                ),
                priority=1,
                ceilings=QueueLimits(
                    cpus=8.0,
                    memory_bytes=32 * 2**30,
                    gpus=0,
                    shm_bytes=2**30,
                    pids=100,
                    timeout_seconds=21_600.0,
                    grace_seconds=60.0,
                    networks=frozenset({Network.NONE}),
                    mounts=(MountRule("/data/models"), MountRule("/scratch", writable=True), MountRule("vol")),
                    privileged=True,
                    images=("ghcr.io/acme/*",),
                    non_root=True,
                    priority=10,
                    pull=frozenset({Pull.NEVER}),
                    backends=frozenset({"process"}),
                    options=frozenset({"tolerations"}),
                ),
                source=f"{path}:14",
            ),
            "gpu-a100": QueueConfig(
                "gpu-a100", concurrency=4, per_machine=None, backend="cluster", source=f"{path}:27"
            ),
            "both": QueueConfig("both", concurrency=4, per_machine=2, source=f"{path}:28"),
            "least": QueueConfig("least", source=f"{path}:29"),
        },
        source=path,
    )


def test_options_of_a_backend_are_plain_data(tmp_path):
    """A backend gets what the file says, and nothing that knows its lines."""
    book, _ = loaded(tmp_path, "backends: {docker: {tls: {ca: a.pem}}}")

    assert type(book.backends["docker"].options["tls"]) is dict


def test_a_file_that_declares_no_queue_leaves_the_one_that_there_is(tmp_path):
    """It may be about engines alone."""
    book, errors = loaded(tmp_path, "backends: {docker: {host: unix:///run/docker.sock}}")

    assert errors == ()
    assert list(book.queues) == ["default"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("", None, "the file is one mapping with `machine`, `backends` and `queues`", id="empty"),
        pytest.param("- a", 1, "and this is a list", id="a list"),
        pytest.param("queues: {}\n---\nqueues: {}", 3, "and here are 2 documents", id="two documents"),
        pytest.param("queues: &a {}", 1, "anchors and aliases are not allowed", id="anchor"),
        pytest.param("queues: {a: }\nqueues: {b: }", 2, "a second time; the first is on line 1", id="twice"),
        pytest.param("\nqueue: {}", 2, "the file has no such key; did you mean 'queues'?", id="unknown key"),
        pytest.param("machine: {paralel: 8}", 1, "did you mean 'parallel'?", id="unknown key below"),
        pytest.param("machine: {parallel: 0}", 1, "machine.parallel: must be from 1", id="no job at all"),
        pytest.param("queues: [default]", 1, "queues: must be a mapping", id="queues as a list"),
        pytest.param("queues:\n  a b: {}", 2, "is not a name", id="name of a queue"),
        pytest.param("queues:\n  events: {}", 2, "`events` is what a worker takes that answers events", id="events"),
        pytest.param("queues:\n  gpu: 4", 2, "queues.gpu: should be a mapping, and this is the number 4", id="number"),
        pytest.param("queues:\n  gpu: {per-machne: 4}", 2, "did you mean 'per-machine'?", id="key of a queue"),
        pytest.param("queues:\n  gpu: {memory: 4GiB}", 2, "a queue has no such key", id="key of a job"),
        pytest.param(
            "queues:\n  gpu:\n    ceilings:\n      memory: 4GiB",
            4,
            "`ceilings` has no such key; it goes under `resources`",
            id="one level too high",
        ),
        pytest.param(
            "queues:\n  gpu:\n    defaults:\n      resources:\n        memory: 4Gi",
            5,
            "queues.gpu.defaults.resources.memory: '4Gi' is not a size; write 4GiB",
            id="size",
        ),
        pytest.param("queues:\n  gpu: {defaults: {image: a}}", 2, "`defaults` has no such key", id="default image"),
        pytest.param("queues:\n  gpu: {ceilings: {mounts: /data}}", 2, "must be a list; write [/data]", id="no list"),
        pytest.param("queues:\n  gpu: {ceilings: {mounts: [data/x]}}", 2, "is not absolute", id="relative"),
        pytest.param("queues:\n  gpu: {ceilings: {mounts: [/a/../b]}}", 2, "has `..` in it", id="detour"),
        pytest.param("queues:\n  gpu: {ceilings: {networks: []}}", 2, "nothing would be allowed", id="no network"),
        pytest.param("queues:\n  gpu: {ceilings: {networks: [hots]}}", 2, "'none', 'bridge' or 'host'", id="network"),
        pytest.param(
            'queues:\n  gpu:\n    defaults:\n      env: {A: "{{ secrets.B }}"}',
            4,
            "queues.gpu.defaults.env.A: templates are filled in in automations only",
            id="template",
        ),
        pytest.param("backends:\n  podman: {host: x}", 2, "backends.podman: `uses` is missing", id="no uses"),
        pytest.param("backends:\n  a: {uses: kuberntes}", 2, "did you mean 'kubernetes'?", id="unknown backend"),
        pytest.param("queues:\n  gpu: {backend: dokcer}", 2, "declares no backend 'dokcer'; did you mean", id="engine"),
        pytest.param(
            "queues:\n  gpu: {ceilings: {backends: [x]}}", 2, "queues.gpu.ceilings.backends: ", id="another engine"
        ),
        pytest.param(
            "queues:\n  gpu:\n    defaults:\n      resources: {cpus: 9}\n    ceilings:\n      resources: {cpus: 8}",
            4,
            "queues.gpu.defaults.resources.cpus: 9 processors is more than 8 processors, the ceiling",
            id="default above its ceiling",
        ),
        pytest.param(
            "queues:\n  gpu: {defaults: {user: root}, ceilings: {non-root: true}}",
            2,
            "queues.gpu.defaults.user: 'root' is root",
            id="root by default",
        ),
        pytest.param(
            "queues:\n  gpu: {defaults: {priority: 5}, ceilings: {priority: 1}}",
            2,
            "queues.gpu.defaults.priority: 5 is more than 1",
            id="priority by default",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(tmp_path, text, line, says):
    """File, line and what would be right, as in files of automations."""
    (found,) = mistakes(tmp_path, text)

    assert found[0] == line
    assert says in found[1]


def test_every_mistake_is_found_at_once(tmp_path):
    """One in a queue hides none in another, nor a contradiction there."""
    text = "machin: 1\nbackends: {a: 5}\nqueues:\n  one: {x: 1}\n  two: {backend: nowhere}\n  three: {concurrency: 0}\n"

    assert [line for line, _ in mistakes(tmp_path, text)] == [1, 2, 4, 5, 6]


def test_a_queue_that_cannot_be_read_is_not_taken_for_missing(tmp_path):
    """Automations that use it are not blamed for it, whatever they ask for."""
    book, errors = loaded(tmp_path, "queues: {gpu: {x: 1}}")

    assert errors
    spec = book.complete(JobOptions(image="busybox", privileged=True, mounts=(Mount("/etc", "/e"),)), "gpu")
    assert book.objections(spec, "gpu") == ()


# --- where it is ----------------------------------------------------------------------------------


def test_without_a_file_there_is_what_is_built_in(tmp_path):
    """Nothing has to be written."""
    assert read_queue_book(Settings(data=tmp_path)) == JobsConfig()


def test_the_data_folder_s_file_counts_where_none_is_named(tmp_path):
    """`jobs.yaml`; one that is named goes before it."""
    named = tmp_path / "named.yaml"
    named.write_text("queues: {named: }")
    (tmp_path / "jobs.yaml").write_text("queues: {found: }")

    assert list(read_queue_book(Settings(data=tmp_path)).queues) == ["found"]
    assert list(read_queue_book(Settings(data=tmp_path, jobs_file=named)).queues) == ["named"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param("nowhere.yaml", "there is no such file; UPSHOT_JOBS_FILE", id="missing"),
        pytest.param(".", "the file cannot be read", id="a folder"),
    ],
)
def test_a_file_that_is_named_must_be_there(tmp_path, path, says):
    """A slip of the pen must not leave jobs without ceilings."""
    with pytest.raises(ConfigError, match=says):
        read_queue_book(Settings(data=tmp_path, jobs_file=tmp_path / path))


def test_a_file_with_mistakes_is_refused_with_all_of_them(tmp_path):
    """A worker that started with half of it would allow what the other half forbids."""
    (tmp_path / "jobs.yaml").write_text("queues:\n  a: {x: 1}\n  b: {y: 1}\n")

    with pytest.raises(ConfigError) as raised:
        read_queue_book(Settings(data=Path(tmp_path)))

    first, second = str(raised.value).splitlines()
    assert first.startswith(f"{(tmp_path / 'jobs.yaml').as_posix()}:2: ")
    assert second.startswith(f"{(tmp_path / 'jobs.yaml').as_posix()}:3: ")
