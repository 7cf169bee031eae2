"""The files in `deploy/` are valid, and name only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess

import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml

from tests.project.repository import ROOT
from upshot.actions.catalog import load_catalog
from upshot.automations.loader import load_folder
from upshot.settings import Settings

PROMETHEUS = ROOT / "deploy/prometheus"


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; apt-get install prometheus")
    return found


def run(*command) -> None:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_accepts_the_alert_rules(promtool):
    """The rules have no mistakes. They fire when they should, and not on a healthy installation."""
    run(promtool, "check", "rules", PROMETHEUS / "alerts.yaml")
    run(promtool, "test", "rules", PROMETHEUS / "alerts_test.yaml")


# --- Kubernetes -----------------------------------------------------------------------------------

KUBERNETES = ROOT / "deploy/kubernetes"
RESOURCES = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
OBJECTS = [item for name in RESOURCES for item in yaml.safe_load_all((KUBERNETES / name).read_text())]
DEPLOYMENTS = {item["metadata"]["name"]: item for item in OBJECTS if item["kind"] == "Deployment"}


@pytest.mark.parametrize("version", kubernetes_validate.utils.all_versions())
@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_objects_follow_the_schemas_that_kubernetes_publishes(item, version):
    """Strictly: an unknown key is a mistake, too."""
    kubernetes_validate.validate(item, version, strict=True)


def test_the_base_contains_every_file():
    """A file that kustomization.yaml does not name would be left out silently."""
    assert set(RESOURCES) == {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}


def test_passwords_are_given_by_reference():
    """The base contains no Secret, and every value that is secret comes from one."""
    assert {item["kind"] for item in OBJECTS} == {"ConfigMap", "Deployment", "Service"}
    for deployment in DEPLOYMENTS.values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        given = {variable["name"]: variable.get("valueFrom", {}) for variable in container["env"]}
        for name in ("UPSHOT_TOKEN", "UPSHOT_DATABASE_URL", "UPSHOT_REDIS_URL"):
            assert given[name]["secretKeyRef"]["name"] == "upshot"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_meet_the_strictest_security_standard(name):
    """They meet `restricted`, have probes, and write only to volumes."""
    spec = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "livenessProbe"} <= container.keys()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_the_web_process_is_probed_over_http_and_reachable():
    """Readiness depends on the database, liveness does not. The Service selects the pods."""
    (service,) = (item for item in OBJECTS if item["kind"] == "Service")
    pod = DEPLOYMENTS["upshot"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]

    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_a_worker_has_longer_than_its_own_stop():
    """Kubernetes and systemd kill it only after UPSHOT_STOP_SECONDS and the last receipts."""
    unit = (ROOT / "deploy/systemd/upshot@.service").read_text()
    longest = Settings().stop_seconds + 15

    assert DEPLOYMENTS["upshot-worker"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > longest
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]) > longest


def test_the_example_automation_is_valid(tmp_path):
    """The ConfigMap holds automations that Upshot loads."""
    (configmap,) = (item for item in OBJECTS if item["metadata"]["name"] == "upshot-automations")
    for name, text in configmap["data"].items():
        (tmp_path / name).write_text(text)
    loaded = load_folder(tmp_path, load_catalog())

    assert not loaded.errors
    assert loaded.automations


# --- containers -----------------------------------------------------------------------------------

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_compose_builds_the_image_once():
    """One service builds the tag that all others use, and they wait for it."""
    services = COMPOSE["services"]
    builders = [name for name, service in services.items() if "build" in service]
    users = [name for name, service in services.items() if service["image"] == services["migrate"]["image"]]

    assert builders == ["migrate"]
    assert {"web", "worker", "jobs", "receiver"} < set(users)
    for name in set(users) - {"migrate"}:
        assert services[name]["pull_policy"] == "never"
        assert "migrate" in services[name]["depends_on"]


def test_compose_has_no_default_passwords():
    """Compose refuses to start without them, and says what to do."""
    text = (ROOT / "docker-compose.yml").read_text()
    used = re.findall(r"\$\{(\w*(?:TOKEN|PASSWORD)\w*)(:?[-?])", text)

    assert {name for name, _ in used} == {"UPSHOT_TOKEN", "POSTGRES_PASSWORD", "REDIS_PASSWORD"}
    assert {operator for _, operator in used} == {":?"}


def test_compose_passes_secrets():
    """Every process that performs steps or starts jobs reads them from a read-only directory."""
    for name in ("worker", "jobs"):
        service = COMPOSE["services"][name]
        directory = service["environment"]["UPSHOT_SECRETS_DIR"]
        assert any(volume.endswith(f":{directory}:ro") for volume in service["volumes"])


def test_workers_have_a_health_check():
    """The image's own check applies to every service that runs for long."""
    dockerfile = (ROOT / "Dockerfile").read_text()

    assert 'CMD ["upshot", "health"]' in dockerfile
    assert "UPSHOT_HEARTBEAT_FILE=" in dockerfile
    for name in ("web", "worker", "jobs"):
        assert "healthcheck" not in COMPOSE["services"][name]
