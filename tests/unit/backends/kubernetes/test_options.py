"""The options of a Kubernetes backend, and the messages for invalid ones."""

from __future__ import annotations

import sys

import pytest

from upshot.backends.kubernetes import make
from upshot.backends.kubernetes.options import read_author_options, read_options
from upshot.errors import ConfigError

CUSTOM = {"succeeded-when": {"type": "Succeeded"}, "failed-when": {"field": "status.phase", "value": "Failed"}}


@pytest.fixture
def template(tmp_path):
    """Return the path of a template."""
    path = tmp_path / "resource.yaml"
    path.write_text("apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nspec: {image: '{{ spec.image }}'}\n")
    return path


def test_defaults():
    """All options have defaults."""
    options = read_options({})

    assert options.gpu_resource == "nvidia.com/gpu"
    assert options.pull_time == 900
    assert options.template is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"node-selectr": {}}, "node-selectr: unknown key; did you mean 'node-selector'?", id="typo"),
        pytest.param({"zzz": 1}, "zzz: unknown key; choose from 'annotations', 'context',", id="unknown key"),
        pytest.param({"namespace": "My Jobs"}, "namespace: 'My Jobs' is not a name in Kubernetes", id="name"),
        pytest.param({"node-selector": {"gpu": True}}, "node-selector.gpu: must be a string, not true", id="type"),
        pytest.param({"pull-time": 90}, "pull-time: 90 is not a duration; write 90s", id="no unit"),
        pytest.param({"ttl-seconds-after-finished": 60}, "must be greater than or equal to 600", id="short TTL"),
        pytest.param({"kubeconfig": "/none/config"}, "kubeconfig: there is no file /none/config", id="missing file"),
        pytest.param({"volumes": [{"emptyDir": {}}]}, "volumes: each item needs a `name`", id="volume without a name"),
        pytest.param({"volumes": [{"name": "upshot-x"}]}, "does not begin with upshot-", id="reserved name"),
        pytest.param({"succeeded-when": {"type": "S"}}, "succeeded-when applies to custom", id="no template"),
    ],
)
def test_invalid_options(options, message):
    """The message for an invalid option names its key and says what to write."""
    with pytest.raises(ConfigError) as error:
        make(options)

    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"succeeded-when": {"type": "S"}}, "write both", id="no failed-when"),
        pytest.param({**CUSTOM, "failed-when": {}}, "either `type` for a condition, or `field`", id="neither"),
        pytest.param({**CUSTOM, "failed-when": {"type": "F", "field": "x"}}, "either `type`", id="both"),
        pytest.param({**CUSTOM, "failed-when": [{"typ": "F"}]}, "did you mean 'type'?", id="typo"),
        pytest.param({**CUSTOM, "log-selector": {"a": "{{ job.id }}"}}, "unknown name {{ job.id }}", id="name"),
    ],
)
def test_invalid_options_for_a_custom_resource(template, options, message):
    """The options for a template are checked, too."""
    with pytest.raises(ConfigError) as error:
        make({"template": str(template), **options})

    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [", "cannot be read", id="not YAML"),
        pytest.param("", "must contain one custom resource", id="empty"),
        pytest.param("a: 1\n---\nb: 1", "must contain one custom resource", id="two documents"),
        pytest.param("kind: Job", "needs `apiVersion` and `kind`", id="no version"),
        pytest.param("apiVersion: v1\nkind: Pod", "needs `apiVersion` and `kind`", id="not a custom resource"),
        pytest.param("apiVersion: a/v1\nkind: A\nmetadata: x", "metadata must be a mapping", id="metadata"),
        pytest.param("apiVersion: a/v1\nkind: A\nx: '{{ spec.imge }}'", "unknown name {{ spec.imge }}", id="name"),
        pytest.param("apiVersion: a/v1\nkind: A\nx: '{{ spec.env }}'", "unknown name {{ spec.env }}", id="secrets"),
        pytest.param("apiVersion: a/v1\nkind: A\nx: '{{ name | upper }}'", "unknown name", id="filter"),
    ],
)
def test_invalid_template(tmp_path, text, message):
    """The message for an invalid template names the file and the problem."""
    path = tmp_path / "x.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError) as error:
        make({"template": str(path), **CUSTOM})

    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_author_options():
    """A step can choose nodes and labels, but cannot set the operator's options."""
    assert read_author_options({"node-selector": {"pool": "gpu"}}).node_selector == {"pool": "gpu"}
    with pytest.raises(ConfigError, match=r"service-account: unknown key"):
        read_author_options({"service-account": "admin"})


def test_without_the_client(monkeypatch):
    """If the extra is not installed, the message says what to install."""
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)

    with pytest.raises(ConfigError, match=r"pip install 'upshot\[kubernetes\]'"):
        make({})
