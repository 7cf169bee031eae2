"""The `with` block of a `launch` step: its keys, and the options that they set."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from upshot.backends.kubernetes.options import AuthorOptions
from upshot.domain.job import (
    ALL_GPUS,
    JOB_OPTIONS,
    ImagePullCredentials,
    InputFiles,
    MemoryGrowth,
    Mount,
    Network,
    Pull,
)
from upshot.schema.launch_inputs import KubernetesInputs, LaunchInputs
from upshot.schema.yaml_model import RENDERED
from upshot.validation import validation_problems

MINIMAL = {"image": "busybox"}
COMPLETE = {
    "image": "ghcr.io/acme/evaluate:1.4",
    "command": ["python", "eval.py"],
    "args": [],
    "env": {"LEVEL": "1", "lower.case-too": ""},
    "secret-files": {"token": "s"},
    "input": "required",
    "workdir": "/work",
    "resources": {"cpus": 0.5, "memory": "4GiB", "gpus": "all", "shm": "1GiB", "pids": 100},
    "timeout": "30m",
    "grace": "1m",
    "network": "none",
    "user": "1000:1000",
    "read-only": True,
    "privileged": True,
    "capabilities": ["CHOWN", "SYS_NICE", "CHOWN"],
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


def find_problem(with_, **context):
    """Return the dotted path and the message of the first problem."""
    with pytest.raises(ValidationError) as raised:
        LaunchInputs.model_validate(with_, context=context)
    problem = validation_problems(raised.value.errors(), LaunchInputs)[0]
    return problem.dotted_path, problem.message


def test_every_key_sets_its_option():
    """Amounts become numbers, words become enums, and paths are normalized."""
    inputs = LaunchInputs.model_validate(COMPLETE, context={RENDERED: True})

    options = inputs.options(rendered=True)

    assert options == {
        "image": "ghcr.io/acme/evaluate:1.4",
        "command": ("python", "eval.py"),
        "args": (),
        "env": {"LEVEL": "1", "lower.case-too": ""},
        "secret_files": {"token": "s"},
        "input": InputFiles.REQUIRED,
        "workdir": "/work",
        "cpus": 0.5,
        "memory_bytes": 4 * 2**30,
        "gpus": ALL_GPUS,
        "shm_bytes": 2**30,
        "pids": 100,
        "timeout_seconds": 1800.0,
        "grace_seconds": 60.0,
        "network": Network.NONE,
        "user": "1000:1000",
        "read_only": True,
        "privileged": True,
        "capabilities": ("CHOWN", "SYS_NICE"),
        "mounts": (Mount("/data", "/data"), Mount("cache", "/c", read_only=False)),
        "pull": Pull.ALWAYS,
        "registry_auth": ImagePullCredentials("me", "p"),
        "labels": {"team": "ml"},
        "kubernetes": {"node-selector": {"gpu": "a100"}},
    }
    assert options.keys() == JOB_OPTIONS.keys()
    assert inputs.growth == MemoryGrowth(1.5, 16 * 2**30)
    assert (inputs.queue, inputs.backend, inputs.priority, inputs.concurrency) == ("gpu-a100", "docker", -100, 1)


def test_the_kubernetes_settings_are_those_of_its_backend():
    """A file can set exactly what the backend accepts when it starts a job."""
    backend = {name.replace("_", "-") for name in AuthorOptions.model_fields}

    assert set(KubernetesInputs.model_json_schema()["properties"]) == backend


def test_keys_that_are_left_out_set_no_option():
    """The queue's defaults apply to them later."""
    assert LaunchInputs.model_validate(MINIMAL).options(rendered=False) == {"image": "busybox"}


def test_every_value_can_be_a_template():
    """Until it is rendered, its option is unknown. The result of a template is a string, which is then parsed."""
    template = "{{= vars.x }}"
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
        "capabilities": template,
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
    options = LaunchInputs.model_validate(written).options(rendered=False)

    assert options.keys() == {"args", "labels", "mounts"}
    assert len(options["mounts"]) == 2

    rendered = {"image": "a", "resources": {"cpus": "2", "memory": "1GiB", "gpus": "1", "pids": "9"}, "priority": "-5"}
    inputs = LaunchInputs.model_validate(rendered, context={RENDERED: True})
    assert inputs.options(rendered=True) == {"image": "a", "cpus": 2.0, "memory_bytes": 2**30, "gpus": 1, "pids": 9}
    assert inputs.priority == -5


def test_the_result_of_a_template_is_not_a_template():
    """Braces that come from an event are an ordinary argument."""
    inputs = LaunchInputs.model_validate(MINIMAL | {"command": ["echo", "{{ x }}"]}, context={RENDERED: True})

    assert inputs.options(rendered=True)["command"] == ("echo", "{{ x }}")


@pytest.mark.parametrize(
    ("with_", "path", "message"),
    [
        pytest.param({"image": "a b"}, "image", "is not an image", id="image"),
        pytest.param({"command": "python eval.py"}, "command", "write [python, eval.py], or [sh, -c,", id="words"),
        pytest.param({"command": "a 'b c'"}, "command", 'write [a, "b c"], or', id="quoted words"),
        pytest.param({"command": "a | b"}, "command", 'to use a shell, write [sh, -c, "a | b"]', id="pipe"),
        pytest.param({"command": "echo 'a"}, "command", "to use a shell, write", id="open quote"),
        pytest.param({"command": []}, "command", "is empty", id="empty command"),
        pytest.param({"command": ["sleep", 5]}, "command.1", "must be a string", id="number as an argument"),
        pytest.param({"args": ["a\x00b"]}, "args.0", "NUL", id="NUL"),
        pytest.param({"env": {"A": 5}}, "env.A", "must be a string", id="number in env"),
        pytest.param({"env": {"UPSHOT_TOKEN": "x"}}, "env", "Upshot sets the variables", id="reserved variable"),
        pytest.param(
            {"env": {"upshot_x": "x"}}, "env", "Upshot sets the variables", id="reserved variable in lower case"
        ),
        pytest.param({"env": {"A=B": "x"}}, "env", "is not the name of a variable", id="equals sign in a name"),
        pytest.param({"secret-files": {"../a": "x"}}, "secret-files", "is not a plain file name", id="path"),
        pytest.param({"secret-files": {"..": "x"}}, "secret-files", "is not a plain file name", id="dots"),
        pytest.param({"workdir": "work"}, "workdir", "is not absolute; write /work", id="relative path"),
        pytest.param(
            {"resources": {"memory": "4Gi"}}, "resources.memory", "the string '4Gi' is not a size; write 4GiB", id="Gi"
        ),
        pytest.param({"resources": {"cpus": "500m"}}, "resources.cpus", "write 0.5", id="millicores"),
        pytest.param({"resources": {"gpus": -1}}, "resources.gpus", "such as 1, or all", id="negative"),
        pytest.param({"resources": {"pids": 0}}, "resources.pids", "must be from 1", id="no process"),
        pytest.param({"resources": {"pids": {}}}, "resources.pids", "a mapping is not a whole number", id="a mapping"),
        pytest.param({"resources": ["cpus"]}, "resources", "must be a mapping", id="a list"),
        pytest.param({"timeout": 30}, "timeout", "the number 30 is not a duration; write 30s", id="bare number"),
        pytest.param({"timeout": "8d"}, "timeout", "must be from 1s to 7d, not 8d", id="too long"),
        pytest.param({"timeout": "0s"}, "timeout", "must be from 1s", id="no time"),
        pytest.param({"network": "hots"}, "network", "'none', 'bridge' or 'host'", id="network"),
        pytest.param({"user": "me; rm"}, "user", "is not a user", id="user"),
        pytest.param({"privileged": "yes"}, "privileged", "must be true or false", id="yes"),
        pytest.param({"mounts": [{"source": "/a"}]}, "mounts.0.target", "required", id="no target"),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/"}]}, "mounts.0.target", "whole file system", id="over the root"
        ),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "//"}]},
            "mounts.0.target",
            "whole file",
            id="over the root, written //",
        ),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/upshot/output"}]},
            "mounts.0.target",
            "is in /upshot",
            id="reserved directory",
        ),
        pytest.param({"mounts": [{"source": "/a", "target": "/proc"}]}, "mounts.0.target", "is in /proc", id="/proc"),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/x/../sys"}]},
            "mounts.0.target",
            "contains `..`",
            id="parent directory in a target",
        ),
        pytest.param({"mounts": [{"source": "./a", "target": "/a"}]}, "mounts.0.source", "write /a", id="relative"),
        pytest.param(
            {"mounts": [{"source": "/a/..", "target": "/a"}]}, "mounts.0.source", "`..`", id="parent directory"
        ),
        pytest.param(
            {"mounts": [{"source": "-v", "target": "/a"}]},
            "mounts.0.source",
            "neither a path",
            id="command-line option",
        ),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/t"}, {"source": "/b", "target": "/t"}]},
            "mounts",
            "two mounts have the target /t",
            id="shared target",
        ),
        pytest.param({"labels": {"upshot.job": "x"}}, "labels", "Upshot sets the labels", id="reserved label"),
        pytest.param({"registry-auth": {"username": "me"}}, "registry-auth.password", "required", id="no password"),
        pytest.param({"priority": 101}, "priority", "must be from -100 to 100", id="priority too high"),
        pytest.param({"concurrency": 0}, "concurrency", "must be from 1", id="zero"),
        pytest.param({"concurrency": True}, "concurrency", "is not a whole number", id="true"),
        pytest.param(
            {"memory-growth": {"factor": 1}}, "memory-growth.factor", "must be from 1.01", id="factor too small"
        ),
        pytest.param(
            {"resources": {"memory": "2GiB"}, "memory-growth": {"up-to": "1GiB"}},
            "",
            "up-to must be more than resources.memory",
            id="less than now",
        ),
        pytest.param({"name": "a b"}, "name", "is not a name", id="name"),
        pytest.param({"kubernetes": []}, "kubernetes", "must be a mapping", id="settings as a list"),
        pytest.param(
            {"kubernetes": {"namespace": "x"}}, "kubernetes.namespace", "unknown key", id="only for operators"
        ),
        pytest.param({"kubernetes": {"labels": {"a": 1}}}, "kubernetes.labels.a", "must be a string", id="label"),
        pytest.param({"memory": "1GiB"}, "memory", "write it under `resources`", id="key one level too high"),
    ],
)
def test_a_mistake_is_reported_with_its_path(with_, path, message):
    """The path names the key as the author wrote it, and the message says what to write."""
    found_path, found_message = find_problem(MINIMAL | with_)

    assert found_path == path
    assert message in found_message


@pytest.mark.parametrize(
    ("with_", "path"),
    [
        pytest.param({"image": "{{ x }}"}, "image", id="braces"),
        pytest.param({"timeout": "soon"}, "timeout", id="a word"),
        pytest.param({"env": {"A": 5}}, "env.A", id="a number"),
        pytest.param({"mounts": [{"source": "/a", "target": "/upshot"}]}, "mounts.0.target", id="reserved directory"),
        pytest.param({"command": "a b"}, "command", id="a string"),
        pytest.param({"privileged": "true"}, "privileged", id="a string that looks like true"),
    ],
)
def test_every_rule_applies_to_rendered_values(with_, path):
    """A value that is still a template is skipped, but its result is checked."""
    found_path, _ = find_problem(MINIMAL | with_, **{RENDERED: True})

    assert found_path == path


@pytest.mark.parametrize(
    ("capabilities", "message"),
    [
        (["CAP_CHOWN"], "'CAP_CHOWN' must be written CHOWN"),
        (["chown"], "'chown' must be written CHOWN"),
        (["ALL"], "ALL gives root on the machine"),
        (["CHOWNED"], "'CHOWNED' is not a capability; did you mean 'CHOWN'?"),
        ("CHOWN", "must be a list; write [CHOWN]"),
    ],
)
def test_capabilities_have_the_names_of_linux(capabilities, message):
    """Docker and Kubernetes accept the same names."""
    _, problem = find_problem(MINIMAL | {"capabilities": capabilities})

    assert message in problem
