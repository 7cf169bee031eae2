"""docs/settings.md documents every setting, and every documented setting exists."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.project.repository import PAGES, ROOT
from upshot.settings import Settings

KNOWN = {f"UPSHOT_{name.upper()}" for name in Settings.model_fields}
MENTION = re.compile(r"UPSHOT_[A-Z][A-Z_]*[A-Z]")
# Variables of docker-compose.yml itself.
OF_COMPOSE = {"UPSHOT_LISTEN"}
# Variables in the environment of a job.
OF_JOBS = {"UPSHOT_EVENT", "UPSHOT_EVENT_FILE", "UPSHOT_INPUT", "UPSHOT_JOB", "UPSHOT_OUTPUT", "UPSHOT_SECRETS"}


def documented():
    """Return the names in the first column of the table in docs/settings.md."""
    return set(re.findall(r"^\| `(UPSHOT_[A-Z_]+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))


def test_every_setting_is_documented():
    """The table in docs/settings.md has a row for each setting."""
    assert not KNOWN - documented()


def test_every_documented_setting_exists():
    """The table in docs/settings.md lists no other setting."""
    assert not documented() - KNOWN - {"UPSHOT_SECRET_NAME"}


def test_documented_defaults_are_the_defaults():
    """The second column of the table holds the defaults of `Settings`."""
    rows = re.findall(
        r"^\| `UPSHOT_([A-Z_]+)` \| ([^|]*) \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE
    )
    wrong = {}
    for name, text in rows:
        if name.lower() not in Settings.model_fields:
            continue
        default = Settings.model_fields[name.lower()].default
        shown = text.strip().strip("`")
        if shown != _as_written(default):
            wrong[name] = (shown, default)

    assert rows
    assert not wrong


def _as_written(default):
    """Return a default as it is written in the environment."""
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default in (None, "") else f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize(
    "path", [*PAGES, *(ROOT / name for name in ("docker-compose.yml", "Dockerfile", "Procfile"))], ids=lambda p: p.name
)
def test_settings_that_are_mentioned_exist(path):
    """Every setting that a page or deployment file mentions exists."""
    mentioned = {name for name in MENTION.findall(path.read_text()) if not name.startswith("UPSHOT_SECRET_")}

    assert not mentioned - KNOWN - OF_COMPOSE - OF_JOBS


def test_compose_sets_what_a_server_needs():
    """The web and worker services share an environment with the token, Redis and PostgreSQL."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    assert services["web"]["environment"] == services["worker"]["environment"]
    assert {"UPSHOT_TOKEN", "UPSHOT_REDIS_URL", "UPSHOT_DATABASE_URL"} <= set(services["web"]["environment"])


def test_compose_starts_only_what_is_ready():
    """Each service depends only on services that exist and have a health check."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert services[needed]["healthcheck"].get("test"), needed
            else:
                assert services[needed]["restart"] == "no", needed


def test_documented_meanings_are_the_descriptions():
    """The third column of the table holds the descriptions of `Settings`."""
    rows = dict(
        re.findall(
            r"^\| `(UPSHOT_[A-Z_]+)` \| [^|]* \| (.*) \|$", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE
        )
    )

    assert rows == {f"UPSHOT_{name.upper()}": field.description for name, field in Settings.model_fields.items()}
