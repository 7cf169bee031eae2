"""`upshot init`, and the files of the data directory that it writes: settings and secrets."""

from __future__ import annotations

import json
import stat

import pytest
from click.testing import CliRunner

from upshot.cli import main
from upshot.cli.settings import settings_with
from upshot.errors import ConfigError
from upshot.wiring.parts import make_secrets


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """Return an empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, exit_code=0, **environment):
    result = CliRunner().invoke(main, words, prog_name="upshot", env=environment)
    assert result.exit_code == exit_code, result.output
    return result


def test_init_writes_a_first_automation_that_is_valid(empty_directory):
    """In an empty directory, it writes an automation, the settings and the secret that it needs, and the next steps."""
    printed = run("init").stdout

    assert "upshot receivers" in printed
    assert "upshot up" in printed
    assert "1 automation is valid" in run("validate").stdout
    schema = json.loads((empty_directory / "automations" / "automation.schema.json").read_text())
    first = (empty_directory / "automations" / "first.yaml").read_text()
    assert first.startswith("# yaml-language-server: $schema=automation.schema.json\n")
    assert schema["title"] == "Upshot automation"
    assert settings_with().egress_allow == "127.0.0.1:9000"
    assert make_secrets(settings_with()).get("HOOK_SECRET").startswith("whsec_")
    for name in ("settings.env", "secrets/HOOK_SECRET"):
        assert stat.S_IMODE((empty_directory / ".upshot" / name).stat().st_mode) == 0o600


def test_init_changes_no_file_that_exists(empty_directory):
    """A second run, or a run beside your own automations, keeps every file as it is."""
    (empty_directory / "automations").mkdir()
    (empty_directory / "automations" / "mine.yml").write_text("name: mine\n")
    printed = run("init").stdout
    assert "kept   automations: it has mine.yml already" in printed
    assert [path.name for path in (empty_directory / "automations").iterdir()] == ["mine.yml"]

    (empty_directory / ".upshot" / "settings.env").write_text("UPSHOT_PORT=8081\n")
    printed = run("init").stdout
    assert "kept   .upshot/settings.env" in printed
    assert "warn  UPSHOT_EGRESS_ALLOW does not allow 127.0.0.1:9000" in printed
    assert settings_with().port == 8081


def test_init_uses_the_given_directories(empty_directory):
    """`--data` and `--automations` say where the files go, and the next steps repeat them."""
    printed = run("init", "--data", "d", "--automations", "a b").stdout

    assert (empty_directory / "a b" / "first.yaml").exists()
    assert (empty_directory / "d" / "secrets" / "HOOK_SECRET").exists()
    assert "upshot up --data d --automations 'a b'" in printed
    assert not (empty_directory / ".upshot").exists()


def test_init_reports_a_directory_that_cannot_be_written(empty_directory):
    """A file in the place of the directory is reported in one line with a remedy."""
    (empty_directory / "automations").write_text("")

    assert "--automations" in run("init", exit_code=1).stderr


def test_environment_variables_override_the_settings_file(empty_directory, monkeypatch):
    """An option overrides an environment variable, which overrides `settings.env` in the data directory."""
    (empty_directory / ".upshot").mkdir()
    (empty_directory / ".upshot" / "settings.env").write_text("# mine\nUPSHOT_PORT=8081\nUPSHOT_HOST=127.0.0.2\n")
    assert (settings_with().port, settings_with().host) == (8081, "127.0.0.2")

    monkeypatch.setenv("UPSHOT_PORT", "8082")
    assert settings_with().port == 8082
    assert settings_with(port=8083).port == 8083


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            "UPSHOT_PROT=1", "UPSHOT_PROT is not a setting for this file; did you mean 'UPSHOT_PORT'?", id="typo"
        ),
        pytest.param("UPSHOT_DATA=x", "UPSHOT_DATA is not a setting for this file", id="the data directory itself"),
        pytest.param("UPSHOT_PORT", "UPSHOT_PORT has no value; write UPSHOT_PORT=VALUE", id="no value"),
        pytest.param("UPSHOT_SECRET_TOKEN=x", "put it into .upshot/secrets/TOKEN", id="secret"),
        pytest.param("UPSHOT_PORT=many", "UPSHOT_PORT must be a whole number", id="invalid value"),
        pytest.param("UPSHOT_URL=\udcff", "cannot be read", id="not UTF-8"),
    ],
)
def test_a_line_without_effect_is_an_error(empty_directory, line, message):
    """A mistake in `settings.env` is reported with its name and a remedy, and not passed over."""
    (empty_directory / ".upshot").mkdir()
    (empty_directory / ".upshot" / "settings.env").write_bytes(line.encode("utf-8", "surrogateescape"))

    with pytest.raises(ConfigError, match=r"UPSHOT_|read") as raised:
        settings_with()
    assert message in str(raised.value)


def test_secrets_are_read_again_when_they_change(empty_directory, monkeypatch):
    """The environment comes first, then UPSHOT_SECRETS_DIR, then the data directory. Files are read at each use."""
    for name in ("mounted", ".upshot/secrets"):
        (empty_directory / name).mkdir(parents=True)
    secrets = make_secrets(settings_with(secrets_dir=empty_directory / "mounted"))
    assert secrets.get("TOKEN") is None

    own = empty_directory / ".upshot" / "secrets" / "TOKEN"
    own.write_text("first\n")
    assert secrets.get("TOKEN") == "first"
    own.write_text("second\n")
    assert secrets.get("TOKEN") == "second"
    assert "TOKEN" in secrets.names()

    (empty_directory / "mounted" / "TOKEN").write_text("mounted")
    assert secrets.get("TOKEN") == "mounted"
    monkeypatch.setenv("UPSHOT_SECRET_TOKEN", "environment")
    assert secrets.get("TOKEN") == "environment"


@pytest.mark.parametrize("words", [["validate"], ["doctor"]], ids=" ".join)
def test_a_missing_directory_of_automations_leads_to_init(words):
    """Commands that find no directory of automations offer `upshot init`."""
    result = CliRunner().invoke(main, words, prog_name="upshot")

    assert "upshot init" in result.stdout
