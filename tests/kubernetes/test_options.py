"""What an operator may write of a Kubernetes backend, and what is said of the rest."""

from __future__ import annotations

import sys

import pytest

from upshot.backends.kubernetes import make
from upshot.backends.kubernetes.options import read_author_options, read_options
from upshot.errors import ConfigError

CUSTOM = {"succeeded-when": {"type": "Succeeded"}, "failed-when": {"field": "status.phase", "value": "Failed"}}


@pytest.fixture
def resource(tmp_path):
    path = tmp_path / "resource.yaml"
    path.write_text("apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nspec: {image: '{{ spec.image }}'}\n")
    return path


def test_nothing_needs_to_be_said():
    """Without options, a backend is the namespace's default one."""
    options = read_options({})

    assert options.gpu_resource == "nvidia.com/gpu"
    assert options.pull_time == 900
    assert options.template is None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        pytest.param({"node-selectr": {}}, "node-selectr: unknown key; did you mean 'node-selector'?", id="a slip"),
        pytest.param({"zzz": 1}, "zzz: unknown key; it has node-selector, tolerations, labels", id="no key at all"),
        pytest.param({"namespace": "My Jobs"}, "namespace: Kubernetes' names are of small letters", id="no name"),
        pytest.param({"node-selector": {"gpu": True}}, "node-selector.gpu: Input should be a valid string", id="type"),
        pytest.param({"pull-time": 90}, "pull-time: is not a duration; write 90s", id="no unit"),
        pytest.param({"ttl-seconds-after-finished": 60}, "greater than or equal to 600", id="gone too soon"),
        pytest.param({"kubeconfig": "/none/config"}, "kubeconfig: there is no file /none/config", id="no file"),
        pytest.param({"volumes": [{"emptyDir": {}}]}, "volumes: each has a `name`", id="no name of a volume"),
        pytest.param({"volumes": [{"name": "upshot-x"}]}, "does not begin with upshot-", id="a name of ours"),
        pytest.param({"succeeded-when": {"type": "S"}}, "succeeded-when is of a custom resource", id="no template"),
    ],
)
def test_what_cannot_be_meant(written, said):
    """The finding names the key, and what to write."""
    with pytest.raises(ConfigError) as error:
        make(written)

    assert said in str(error.value)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        pytest.param({"succeeded-when": {"type": "S"}}, "write both", id="no failure"),
        pytest.param({**CUSTOM, "failed-when": {}}, "either `type`, of a condition, or `field`", id="neither"),
        pytest.param({**CUSTOM, "failed-when": {"type": "F", "field": "x"}}, "either `type`", id="both"),
        pytest.param({**CUSTOM, "failed-when": [{"typ": "F"}]}, "did you mean 'type'?", id="a slip"),
        pytest.param({**CUSTOM, "log-selector": {"a": "{{ job.id }}"}}, "{{ job.id }} is not known there", id="a name"),
    ],
)
def test_what_cannot_be_meant_of_a_custom_resource(resource, written, said):
    """The same, of the keys that go with a template."""
    with pytest.raises(ConfigError) as error:
        make({"template": str(resource), **written})

    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a: [", "cannot be read", id="no YAML"),
        pytest.param("", "must hold one custom resource", id="empty"),
        pytest.param("a: 1\n---\nb: 1", "must hold one custom resource", id="two"),
        pytest.param("kind: Job", "needs `apiVersion` and `kind`", id="no version"),
        pytest.param("apiVersion: v1\nkind: Pod", "needs `apiVersion` and `kind`", id="no custom resource"),
        pytest.param("apiVersion: a/v1\nkind: A\nmetadata: x", "metadata is no mapping", id="metadata"),
        pytest.param("apiVersion: a/v1\nkind: A\nx: '{{ spec.imge }}'", "{{ spec.imge }} is not known", id="a name"),
        pytest.param("apiVersion: a/v1\nkind: A\nx: '{{ spec.env }}'", "{{ spec.env }} is not known", id="secrets"),
        pytest.param("apiVersion: a/v1\nkind: A\nx: '{{ name | upper }}'", "is not known", id="a filter"),
    ],
)
def test_what_is_no_template(tmp_path, text, said):
    """The file is named, and what is wrong with it."""
    path = tmp_path / "x.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError) as error:
        make({"template": str(path), **CUSTOM})

    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_what_a_step_may_say():
    """Where pods run and what they are called; nothing that is the operator's."""
    assert read_author_options({"node-selector": {"pool": "gpu"}}).node_selector == {"pool": "gpu"}
    with pytest.raises(ConfigError, match=r"service-account: unknown key"):
        read_author_options({"service-account": "admin"})


@pytest.mark.parametrize("key", ["container.apparmor.security.beta.kubernetes.io/main", "x.k8s.io/a"])
def test_annotations_that_are_the_clusters(key):
    """What may take a container's walls away is no author's to say."""
    with pytest.raises(ConfigError, match="only the operator"):
        read_author_options({"annotations": {key: "unconfined"}})
    assert read_options({"annotations": {key: "x"}}).annotations == {key: "x"}
    assert read_author_options({"annotations": {"acme.com/a": "x"}})


def test_without_the_client(monkeypatch):
    """Where the extra is not installed, it is said what to install."""
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)

    with pytest.raises(ConfigError, match=r"pip install 'upshot\[kubernetes\]'"):
        make({})
