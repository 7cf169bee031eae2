"""A step sets only labels and annotations whose prefixes the operator's file names, on Kubernetes."""

from __future__ import annotations

import pytest

from upshot.domain.job import JobSpec
from upshot.schema.queue_limits import QueueLimits
from upshot.schema.queues import KUBERNETES, BackendSettings, JobsConfig, QueueConfig
from upshot.settings import Settings
from upshot.wiring.jobs_file import load_jobs_config, read_jobs_config

HOSTILE = (
    "container.apparmor.security.beta.kubernetes.io/main",
    "seccomp.security.alpha.kubernetes.io/pod",
    "KUBERNETES.IO/x",
    "kubernetes.io.",
    "sidecar.istio.io/inject",
    "proxy.istio.io/config",
    "linkerd.io/inject",
    "vault.hashicorp.com/agent-inject",
    "iam.amazonaws.com/role",
    "eks.amazonaws.com/role-arn",
    "azure.workload.identity/use",
    "k8s.v1.cni.cncf.io/networks",
    "io.katacontainers.config.hypervisor.kernel_params",
    "run.oci.keep_original_groups",
    "app",
    "",
    " acme.com/x",
)


def config_with(limits=None, **defaults):
    queue = QueueConfig(
        "gpu", backend="cluster", defaults=defaults, limits=limits or QueueLimits(), source="jobs.yaml:7"
    )
    backends = {"docker": BackendSettings("docker"), "cluster": BackendSettings(KUBERNETES)}
    return JobsConfig(backends=backends, queues={"gpu": queue}, source="jobs.yaml")


@pytest.mark.parametrize("name", [*HOSTILE, "acme.com/x"])
@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("labels", lambda name: JobSpec("i", labels={name: "x"})),
        ("kubernetes.labels", lambda name: JobSpec("i", kubernetes={"labels": {name: "x"}})),
        ("kubernetes.annotations", lambda name: JobSpec("i", kubernetes={"annotations": {name: "x"}})),
    ],
    ids=["labels", "labels of Kubernetes", "annotations"],
)
def test_without_prefixes_a_step_sets_none(path, spec, name):
    """The message says what the operator can do. The operator's own defaults are still allowed."""
    (problem,) = config_with().violations(spec(name), "gpu")
    assert problem.startswith(f"{path}.{name}: a step cannot set this")
    assert "-prefixes`" in problem
    assert "jobs.yaml:7" in problem

    given = spec(name)
    assert config_with(labels=given.labels, kubernetes=given.kubernetes).violations(given, "gpu") == ()


@pytest.mark.parametrize("name", HOSTILE)
def test_named_prefixes_allow_nothing_else(name):
    """A prefix is compared from the first character on."""
    limits = QueueLimits(label_prefixes=("acme.com/", "team"), annotation_prefixes=("acme.com/",))
    spec = JobSpec(
        "i", labels={"team": "x"}, kubernetes={"annotations": {"acme.com/y": "x"}, "labels": {"acme.com/z": ""}}
    )
    assert config_with(limits).violations(spec, "gpu") == ()

    hostile = JobSpec("i", labels={name: "x"}, kubernetes={"annotations": {name: "x"}, "labels": {name: "x"}})
    assert len(config_with(limits).violations(hostile, "gpu")) == 3


def test_the_backend_of_the_step_decides():
    """A queue of Docker that lets a step choose Kubernetes applies the rule there."""
    spec = JobSpec("i", labels={"team": "x"})

    assert config_with().violations(spec, "gpu", "docker") == ()
    assert config_with().violations(spec, "gpu", "cluster")
    assert config_with(QueueLimits(label_prefixes=("acme.com/",))).violations(spec, "gpu", "docker")


def test_the_operator_s_file_names_prefixes(tmp_path):
    """A `*` at the end means the same."""
    path = tmp_path / "jobs.yaml"
    path.write_text(
        "backends: {cluster: {uses: kubernetes}}\n"
        "queues: {gpu: {backend: cluster, limits: {label-prefixes: [acme.com/*], annotation-prefixes: [acme.com/]}}}\n"
    )
    limits = read_jobs_config(Settings(jobs_file=path)).queues["gpu"].limits

    assert (limits.label_prefixes, limits.annotation_prefixes) == (("acme.com/",), ("acme.com/",))


def test_a_prefix_is_written_in_a_list(tmp_path):
    """A single string is an error, because it would be read letter by letter."""
    path = tmp_path / "jobs.yaml"
    path.write_text("queues:\n  default:\n    limits: {annotation-prefixes: acme.com/}\n")
    (error,) = load_jobs_config(path)[1]

    assert "must be a list; write [acme.com/]" in str(error)
