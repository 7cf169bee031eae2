"""Invalid settings are rejected with a remedy, and missing settings get derived values."""

import getpass
import subprocess
import sys
from socket import gethostname

import pytest

from upshot.adapters.redis import validate_redis_url
from upshot.adapters.sql.database import Database
from upshot.cli.settings import settings_with
from upshot.client.http import Client
from upshot.errors import ConfigError
from upshot.settings import Settings, environment_warnings
from upshot.web.auth import check_exposure
from upshot.wiring.parts import base_url, make_secrets
from upshot.worker.process import main as run_worker


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("upshot.example.com", id="no scheme"),
        pytest.param("upshot.example.com:8080", id="host and port"),
        pytest.param("ftp://upshot.example.com", id="other scheme"),
        pytest.param("https://", id="no host"),
        pytest.param("https:///path", id="path without host"),
        pytest.param("https://upshot.example.com:http", id="port not a number"),
        pytest.param("https://upshot.example.com:99999", id="port too large"),
        pytest.param("https://[::1", id="incomplete IPv6 address"),
        pytest.param("https://user:word@upshot.example.com", id="user"),
        pytest.param("https://upshot.example.com?x=1", id="query"),
        pytest.param("https://upshot.example.com#x", id="fragment"),
        pytest.param("https://upshot example.com", id="space"),
        pytest.param("https://upshot.example.com/\n", id="line break"),
    ],
)
def test_an_invalid_public_url_is_rejected(url):
    """The message names the setting, the value and the correct form."""
    with pytest.raises(ConfigError, match=r"^UPSHOT_PUBLIC_URL must be a base URL such as https://HOST.*, not '"):
        settings_with(public_url=url)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        pytest.param({"public_url": "https://upshot.example.com/x/"}, "https://upshot.example.com/x", id="public URL"),
        pytest.param({"public_url": "http://[::1]:80"}, "http://[::1]:80", id="public IPv6 address"),
        pytest.param({"public_url": ""}, "http://127.0.0.1:8080", id="empty, as in a compose file"),
        pytest.param({"host": "::1", "port": 1}, "http://[::1]:1", id="IPv6"),
        pytest.param({"host": "0.0.0.0"}, f"http://{gethostname()}:8080", id="all IPv4 addresses"),
        pytest.param({"host": "::"}, f"http://{gethostname()}:8080", id="all addresses"),
    ],
)
def test_links_begin_with_a_reachable_address(settings, url):
    """Links begin with the public URL, or with the listening address; for all addresses, with the host name."""
    assert base_url(settings_with(**settings)) == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_hosts", "https://upshot.example.com"),
        ("allowed_hosts", "upshot.example.com:443"),
        ("allowed_hosts", "a:80"),
        ("allowed_hosts", "*"),
        ("allowed_hosts", "a.example, b.*.example"),
        ("trusted_proxies", "10.0.0.0/33"),
        ("trusted_proxies", "proxy.internal"),
    ],
)
def test_an_invalid_list_is_rejected(name, value):
    """The message names the setting, the form and the wrong entry."""
    with pytest.raises(ConfigError, match=rf"^UPSHOT_{name.upper()} must be .* separated by commas, .*is none"):
        settings_with(**{name: value})


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:8080", "udp://[::1]:53"])
def test_the_port_that_kubernetes_sets_for_a_service_is_ignored(monkeypatch, value):
    """A Service named `upshot` sets UPSHOT_PORT in every Pod of its namespace."""
    monkeypatch.setenv("UPSHOT_PORT", value)

    assert settings_with().port == 8080
    assert settings_with(port=9000).port == 9000
    (warning,) = environment_warnings({"UPSHOT_PORT": value})
    assert value in warning
    assert "enableServiceLinks" in warning


def test_the_settings_file_still_sets_the_port_in_kubernetes(monkeypatch, tmp_path):
    """What is ignored does not override anything."""
    monkeypatch.setenv("UPSHOT_PORT", "tcp://10.0.0.1:8080")
    (tmp_path / "settings.env").write_text("UPSHOT_PORT=9000\n")

    assert settings_with(data=tmp_path).port == 9000


@pytest.mark.parametrize(
    "name",
    [
        "UPSHOT_SERVICE_HOST",
        "UPSHOT_SERVICE_PORT",
        "UPSHOT_SERVICE_PORT_HTTP",
        "UPSHOT_PORT_8080_TCP",
        "UPSHOT_PORT_8080_TCP_ADDR",
        "UPSHOT_WEB_SERVICE_HOST",
        "UPSHOT_WEB_PORT",
        "UPSHOT_WEB_PORT_80_TCP_PROTO",
        "UPSHOT_SECRET_SLACK_TOKEN",
        "UPSHOT_TOKEN",
        "upshot_port",
        "UPSHOT_JOB",
        "PATH",
    ],
)
def test_variables_that_are_known_are_no_warning(name):
    """Settings, secrets, the variables of jobs, and what Kubernetes sets for Services need no remedy."""
    assert environment_warnings({name: "1"}) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("UPSHOT_EGRES_ALLOW", "did you mean 'UPSHOT_EGRESS_ALLOW'?"),
        ("UPSHOT_DATABASE", "did you mean 'UPSHOT_DATABASE_URL'?"),
        ("UPSHOT_SECRETS_DIRECTORY", "did you mean 'UPSHOT_SECRETS_DIR'?"),
        ("UPSHOT_SECRE_TOKEN", "UPSHOT_SECRE_TOKEN is not a setting"),
        ("UPSHOT_XYZZY_QQ", "; remove it"),
    ],
)
def test_an_unknown_variable_is_a_warning_with_the_nearest_name(name, expected):
    """A misspelled setting would otherwise have no effect and no message."""
    (warning,) = environment_warnings({name: "s3cret"})

    assert expected in warning
    assert "s3cret" not in warning


def test_commands_print_the_warnings(tmp_path):
    """The warning goes to standard error, once."""
    command = [sys.executable, "-m", "upshot", "migrate", "--data", str(tmp_path / "data")]
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), "UPSHOT_AUTOMATION": "x"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)

    assert done.stderr == (
        "warning: UPSHOT_AUTOMATION is not a setting and has no effect; did you mean 'UPSHOT_AUTOMATIONS'?\n"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "http", "UPSHOT_PORT must be a whole number, written with digits only, not 'http'; correct it, or"),
        ("port", "99999", "'99999'; correct it, or unset it for the default 8080"),
        ("lease_seconds", "0", "'0'; correct it, or unset it for the default 30.0"),
        ("sweep_seconds", "1e12", "UPSHOT_SWEEP_SECONDS"),
        ("events_days", "99999999", "UPSHOT_EVENTS_DAYS must be less than or equal to 36500, not '99999999'"),
        ("log_level", "verbose", "UPSHOT_LOG_LEVEL must be debug, info, warning or error, not 'verbose'"),
        ("log_format", "yaml", "UPSHOT_LOG_FORMAT"),
        ("queues", "a, b", "must be names separated by commas without spaces, such as events,gpu, not 'a, b'"),
        ("worker_id", "a b", "must be 1 to 80 ASCII letters"),
        ("worker_predecessor", "a b", "UPSHOT_WORKER_PREDECESSOR must be 1 to 80 ASCII letters"),
        ("url", "upshot.internal:8080", "UPSHOT_URL must be a base URL such as https://HOST:PORT/PATH"),
        ("github_api_url", "api.github.com", "UPSHOT_GITHUB_API_URL must be a base URL"),
        ("jobs_remove_orphans", "perhaps", "UPSHOT_JOBS_REMOVE_ORPHANS must be true or false"),
        ("egress_proxy", "proxy:3128", "UPSHOT_EGRESS_PROXY must be the address of an HTTP proxy with its port"),
        ("egress_proxy", "https://proxy:3128", "UPSHOT_EGRESS_PROXY"),
        ("egress_proxy", "http://me:p/ss@proxy:3128", "%2F for `/`"),
        ("token", "ünicode-token", "UPSHOT_TOKEN must consist of visible ASCII characters"),
    ],
)
def test_an_invalid_value_is_named_with_a_remedy(monkeypatch, name, value, expected):
    """The message has the setting, its value unless that can be a password, and what to do."""
    monkeypatch.setenv(f"UPSHOT_{name.upper()}", value)
    with pytest.raises(ConfigError) as raised:
        settings_with()

    assert expected in str(raised.value)
    assert "correct it" in str(raised.value)
    assert (value in str(raised.value)) == (name not in {"token", "egress_proxy"})


def test_an_empty_variable_is_not_set(monkeypatch):
    """Compose sets an empty variable for each one that it does not know."""
    for name in ("PORT", "AUTOMATIONS", "DATABASE_URL", "LEASE_SECONDS"):
        monkeypatch.setenv(f"UPSHOT_{name}", "")

    assert settings_with().port == 8080
    assert str(settings_with().automations) == "automations"


def test_a_directory_of_secrets_that_cannot_be_read_stops_the_worker(tmp_path):
    """Otherwise, each step that uses a secret would fail with a message that it is missing."""
    file = tmp_path / "secret"
    file.write_text("x")
    for path in (tmp_path / "none", file):
        with pytest.raises(ConfigError, match=r"UPSHOT_SECRETS_DIR: .*; name a directory.*or unset it") as raised:
            make_secrets(settings_with(secrets_dir=path))
        assert str(path) in str(raised.value)


def test_a_heartbeat_file_that_cannot_be_written_stops_the_worker(tmp_path):
    """Otherwise, the health check would report a worker that works as dead."""
    for path in (tmp_path / "none" / "file", tmp_path):
        with pytest.raises(ConfigError, match=r"UPSHOT_HEARTBEAT_FILE: .*; name a file in a directory") as raised:
            run_worker(settings_with(data=tmp_path), path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "upshot.internal"])
@pytest.mark.parametrize("token", ["hunter2", "x" * 15])
def test_a_token_that_can_be_guessed_is_refused_beyond_loopback(host, token):
    """The message says how long a token must be, and how to make one. It does not show the token."""
    with pytest.raises(ConfigError, match="at least 16; `openssl rand -hex 32` makes one") as raised:
        check_exposure(Settings(host=host, token=token))

    assert token not in str(raised.value)
    check_exposure(Settings(host=host, token="x" * 16))
    check_exposure(Settings(host="127.0.0.1", token=token))


@pytest.mark.parametrize(
    "url", ["postgresql://me:p@ssw0rd@db/upshot", "postgresql://me:p@ss@w0rd@db/x", "postgres://me:@ssw0rd@db:5432/x"]
)
def test_a_database_password_with_an_at_sign_is_explained(url):
    """Without the message, the error would be that a host does not exist. It does not show the password."""
    with pytest.raises(ConfigError, match=r"its password contains `@`.*write %40") as raised:
        Database(url)

    assert "w0rd" not in str(raised.value)
    assert Database(url.rpartition("@")[0].replace("@", "%40") + "@db/x").url.host == "db"


@pytest.mark.parametrize("url", ["nonsense w0rd", "postgresql://me:w0rd@db:port/x", "mysql+w0rd"])
def test_an_invalid_database_url_is_explained_without_its_password(url):
    """The message shows the form of a URL."""
    with pytest.raises(ConfigError, match="UPSHOT_DATABASE_URL") as raised:
        Database(url)

    assert "w0rd@" not in str(raised.value)
    assert "nonsense" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pass/w0rd@redis:6379/0",
        "redis://:w0rd#2@redis:6379/0",
        "redis://:w0rd?2@redis:6379/0",
        "redis://w0rd.internal:99999/0",
        "redis://w0rd.internal:6379/cache",
        "redis://w0rd.internal:6379/0?w0rd=1",
        "http://w0rd.internal",
        "w0rd.internal:6379",
    ],
)
def test_an_invalid_redis_url_is_explained_without_its_password(url):
    """The message shows the form of a URL and how to write a password. It repeats no part of the value."""
    with pytest.raises(ConfigError, match=r"UPSHOT_REDIS_URL is not the URL of a Redis.*%2F for `/`") as raised:
        validate_redis_url(url)

    assert "w0rd" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis",
        "redis://redis:6379/",
        "rediss://user:p%40ss@redis.internal:6380/15",
        "redis://:p@ss@[::1]:6379/0",
        "redis://redis:6379?db=3",
        "unix:///run/redis.sock?db=2",
        "unix://:password@/run/redis.sock",
    ],
)
def test_every_form_of_redis_url_is_accepted(url):
    """Database, user, TLS, IPv6 and sockets."""
    assert validate_redis_url(url) == url


def test_a_login_name_beyond_ascii_works(monkeypatch):
    """The name of a user is sent as UTF-8, which the server reads."""
    monkeypatch.setattr(getpass, "getuser", lambda: "jürgen-名")
    with Client("http://127.0.0.1:9", "token", is_local=True) as client:
        sent = dict(client._http.headers.raw)

    assert sent[b"X-Upshot-Actor"].decode() == "jürgen-名"
