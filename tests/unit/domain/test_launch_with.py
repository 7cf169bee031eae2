"""The block of a `launch` step: what an author may write, and what it says."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from upshot.backends.kubernetes.options import AuthorOptions
from upshot.domain.job import ImagePullCredentials, MemoryGrowth, Mount, Network, Pull
from upshot.schema.action_inputs import RENDERED
from upshot.schema.launch_inputs import KubernetesInputs, LaunchInputs
from upshot.schema.queues import ALL_GPUS, JobOptions

LEAST = {"image": "busybox"}
MOST = {
    "image": "ghcr.io/acme/evaluate:1.4",
    "command": ["python", "eval.py"],
    "args": [],
    "env": {"LEVEL": "1", "lower.case-too": ""},
    "secret-files": {"token": "s"},
    "workdir": "/work",
    "resources": {"cpus": 0.5, "memory": "4GiB", "gpus": "all", "shm": "1GiB", "pids": 100},
    "timeout": "30m",
    "grace": "1m",
    "network": "none",
    "user": "1000:1000",
    "read-only": True,
    "privileged": True,
    "mounts": [{"source": "/data/", "target": "/data"}, {"source": "cache", "target": "/c/", "read-only": False}],
    "pull": "always",
    "registry-auth": {"username": "me", "password": "p"},
    "labels": {"team": "ml"},
    "queue": "gpu-a100",
    "backend": "docker",
    "priority": -100,
    "concurrency": 1,
    "memory-growth": {"factor": 1.5, "up-to": "16GiB"},
    "name": "evaluate",
    "save-metrics": True,
    "kubernetes": {"node-selector": {"gpu": "a100"}},
}


def _find(with_, **context):
    with pytest.raises(ValidationError) as raised:
        LaunchInputs.model_validate(with_, context=context)
    (found, *_) = raised.value.errors()
    return ".".join(map(str, found["loc"])), found["msg"]


def test_the_whole_block_says_what_it_says():
    """Every key arrives where the rules of queues look for it, quantities as numbers."""
    given = LaunchInputs.model_validate(MOST, context={RENDERED: True})

    assert given.asked(rendered=True) == JobOptions(
        image="ghcr.io/acme/evaluate:1.4",
        command=("python", "eval.py"),
        args=(),
        env={"LEVEL": "1", "lower.case-too": ""},
        files={"token": "s"},
        workdir="/work",
        cpus=0.5,
        memory_bytes=4 * 2**30,
        gpus=ALL_GPUS,
        shm_bytes=2**30,
        pids=100,
        timeout_seconds=1800.0,
        grace_seconds=60.0,
        network=Network.NONE,
        user="1000:1000",
        read_only=True,
        privileged=True,
        mounts=(Mount("/data", "/data"), Mount("cache", "/c", read_only=False)),
        pull=Pull.ALWAYS,
        registry_auth=ImagePullCredentials("me", "p"),
        labels={"team": "ml"},
        options={"node-selector": {"gpu": "a100"}},
    )
    assert given.growth == MemoryGrowth(1.5, 16 * 2**30)
    assert (given.queue, given.backend, given.priority, given.concurrency) == ("gpu-a100", "docker", -100, 1)


def test_settings_for_kubernetes_are_those_that_its_backend_takes():
    """What is let through when a file is loaded is what a job can be started with, and nothing more."""
    backend = {name.replace("_", "-") for name in AuthorOptions.model_fields}

    assert set(KubernetesInputs.model_json_schema()["properties"]) == backend


def test_a_block_that_says_little_leaves_the_rest_to_its_queue():
    """Nothing is invented here."""
    assert LaunchInputs.model_validate(LEAST).asked(rendered=False) == JobOptions(image="busybox")


def test_a_template_may_stand_wherever_a_value_does():
    """As written it says nothing yet; as rendered, from text, it is what it says."""
    template = "{{ vars.x }}"
    written = {
        "image": template,
        "command": template,
        "args": ["--n", template],
        "env": template,
        "resources": {"cpus": template, "memory": template, "gpus": template, "shm": template, "pids": template},
        "timeout": template,
        "grace": template,
        "network": template,
        "user": template,
        "read-only": template,
        "privileged": template,
        "mounts": [template, {"source": template, "target": template, "read-only": template}],
        "pull": template,
        "registry-auth": template,
        "labels": {"a": template},
        "queue": template,
        "priority": template,
        "concurrency": template,
        "memory-growth": {"factor": template, "up-to": template},
        "save-metrics": template,
        "kubernetes": template,
    }
    asked = LaunchInputs.model_validate(written).asked(rendered=False)

    assert (asked.image, asked.command, asked.memory_bytes, asked.network, asked.privileged) == (None,) * 5
    assert len(asked.mounts) == 2

    rendered = {"image": "a", "resources": {"cpus": "2", "memory": "1GiB", "gpus": "1", "pids": "9"}, "priority": "-5"}
    given = LaunchInputs.model_validate(rendered, context={RENDERED: True})
    asked = given.asked(rendered=True)
    assert (asked.cpus, asked.memory_bytes, asked.gpus, asked.pids, given.priority) == (2.0, 2**30, 1, 9, -5)


def test_what_came_out_of_a_template_is_taken_as_it_is():
    """Braces that came with an event are an argument like any other, not another template."""
    given = LaunchInputs.model_validate(LEAST | {"command": ["echo", "{{ x }}"]}, context={RENDERED: True})

    assert given.asked(rendered=True).command == ("echo", "{{ x }}")


@pytest.mark.parametrize(
    ("with_", "place", "message"),
    [
        pytest.param({"image": "a b"}, "image", "is not an image", id="image"),
        pytest.param({"command": "python eval.py"}, "command", "write [python, eval.py], or for a shell", id="words"),
        pytest.param({"command": "a 'b c'"}, "command", 'write [a, "b c"], or', id="quoted words"),
        pytest.param({"command": "a | b"}, "command", 'for a shell write [sh, -c, "a | b"]', id="pipe"),
        pytest.param({"command": "echo 'a"}, "command", "for a shell write", id="open quote"),
        pytest.param({"command": []}, "command", "is empty", id="nothing to run"),
        pytest.param({"command": ["sleep", 5]}, "command.1", "valid string", id="number as an argument"),
        pytest.param({"args": ["a\x00b"]}, "args.0", "NUL", id="NUL"),
        pytest.param({"env": {"A": 5}}, "env.A", "valid string", id="number in env"),
        pytest.param({"env": {"UPSHOT_TOKEN": "x"}}, "env", "is set by Upshot", id="our variable"),
        pytest.param({"env": {"upshot_x": "x"}}, "env", "is set by Upshot", id="our variable in small letters"),
        pytest.param({"env": {"A=B": "x"}}, "env", "is not the name of a variable", id="sign in a name"),
        pytest.param({"secret-files": {"../a": "x"}}, "secret-files", "not the plain name of a file", id="path"),
        pytest.param({"secret-files": {"..": "x"}}, "secret-files", "not the plain name of a file", id="dots"),
        pytest.param({"workdir": "work"}, "workdir", "is not absolute; write /work", id="relative folder"),
        pytest.param({"resources": {"memory": "4Gi"}}, "resources.memory", "'4Gi' is not a size; write 4GiB", id="Gi"),
        pytest.param({"resources": {"cpus": "500m"}}, "resources.cpus", "write 0.5", id="millicores"),
        pytest.param({"resources": {"gpus": -1}}, "resources.gpus", "write 1, or all", id="less than no GPU"),
        pytest.param({"resources": {"pids": 0}}, "resources.pids", "must be from 1", id="no process"),
        pytest.param({"resources": {"pids": {}}}, "resources.pids", "a mapping is not a whole number", id="a mapping"),
        pytest.param({"resources": ["cpus"]}, "resources", "valid dictionary", id="a list"),
        pytest.param({"timeout": 30}, "timeout", "30 is not a duration; write 30s", id="bare number"),
        pytest.param({"timeout": "8d"}, "timeout", "must be from 1s to 7d, and this is '8d'", id="over a week"),
        pytest.param({"timeout": "0s"}, "timeout", "must be from 1s", id="no time"),
        pytest.param({"network": "hots"}, "network", "'none', 'bridge' or 'host'", id="network"),
        pytest.param({"user": "me; rm"}, "user", "is not a user", id="user"),
        pytest.param({"privileged": "yes"}, "privileged", "valid boolean", id="yes"),
        pytest.param({"mounts": [{"source": "/a"}]}, "mounts.0.target", "required", id="no target"),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/"}]}, "mounts.0.target", "whole file system", id="over /"
        ),
        pytest.param({"mounts": [{"source": "/a", "target": "//"}]}, "mounts.0.target", "whole file", id="over //"),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/upshot/output"}]}, "mounts.0.target", "is under /upshot", id="ours"
        ),
        pytest.param({"mounts": [{"source": "/a", "target": "/proc"}]}, "mounts.0.target", "under /proc", id="/proc"),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/x/../sys"}]}, "mounts.0.target", "has `..` in it", id="detour"
        ),
        pytest.param({"mounts": [{"source": "./a", "target": "/a"}]}, "mounts.0.source", "write /a", id="relative"),
        pytest.param({"mounts": [{"source": "/a/..", "target": "/a"}]}, "mounts.0.source", "`..`", id="up"),
        pytest.param({"mounts": [{"source": "-v", "target": "/a"}]}, "mounts.0.source", "neither a path", id="option"),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/t"}, {"source": "/b", "target": "/t"}]},
            "mounts",
            "two mounts have the target /t",
            id="twice",
        ),
        pytest.param({"labels": {"upshot.job": "x"}}, "labels", "is set by Upshot", id="our label"),
        pytest.param({"registry-auth": {"username": "me"}}, "registry-auth.password", "required", id="no password"),
        pytest.param({"priority": 101}, "priority", "must be from -100 to 100", id="too important"),
        pytest.param({"concurrency": 0}, "concurrency", "must be from 1", id="never"),
        pytest.param({"concurrency": True}, "concurrency", "is not a whole number", id="true"),
        pytest.param({"memory-growth": {"factor": 1}}, "memory-growth.factor", "must be from 1.01", id="no growth"),
        pytest.param(
            {"resources": {"memory": "2GiB"}, "memory-growth": {"up-to": "1GiB"}},
            "",
            "up-to must be more than resources.memory",
            id="less",
        ),
        pytest.param({"name": "a b"}, "name", "is not a name", id="name"),
        pytest.param({"kubernetes": []}, "kubernetes", "valid dictionary", id="options as a list"),
        pytest.param({"kubernetes": {"namespace": "x"}}, "kubernetes.namespace", "Extra inputs", id="not an author's"),
        pytest.param({"kubernetes": {"labels": {"a": 1}}}, "kubernetes.labels.a", "valid string", id="label"),
        pytest.param({"memory": "1GiB"}, "memory", "Extra inputs", id="another key"),
    ],
)
def test_what_cannot_be_meant_is_found_with_its_place(with_, place, message):
    """A mistake is found when the file is loaded, at the key as the author wrote it, with what to write."""
    found_place, found_message = _find(LEAST | with_)

    assert found_place == place
    assert message in found_message


@pytest.mark.parametrize(
    ("with_", "place"),
    [
        pytest.param({"image": "{{ x }}"}, "image", id="braces came out"),
        pytest.param({"timeout": "soon"}, "timeout", id="a word came out"),
        pytest.param({"env": {"A": 5}}, "env.A", id="a number came out"),
        pytest.param({"mounts": [{"source": "/a", "target": "/upshot"}]}, "mounts.0.target", id="our folder came out"),
        pytest.param({"command": "a b"}, "command", id="a text came out"),
        pytest.param({"privileged": "true"}, "privileged", id="a text that looks like true"),
    ],
)
def test_rendered_values_keep_every_rule(with_, place):
    """What only holds for templates does not hold for what they gave."""
    found_place, _ = _find(LEAST | with_, **{RENDERED: True})

    assert found_place == place
