"""The options of a Docker backend, and the messages for invalid ones."""

import subprocess
from pathlib import Path

import pytest

from upshot.backends.docker import make
from upshot.backends.docker.options import DEFAULT_LOG_BYTES, Transport, parse_address, read_options
from upshot.errors import ConfigError


def test_defaults():
    """Without options the backend uses the engine of the machine."""
    options = read_options({})

    assert str(options.address) == "unix:///var/run/docker.sock"
    assert (options.log_size, options.timeout, options.init) == (DEFAULT_LOG_BYTES, 10.0, True)


def test_all_options():
    """Keys are in kebab-case, and sizes and durations have units."""
    options = read_options(
        {
            "host": "tcp://engine",
            "labels": {"team": "ml"},
            "log-size": "8MiB",
            "timeout": "30s",
            "init": False,
            "tls": {},
        }
    )

    assert str(options.address) == "tcp://engine:2376"
    assert (options.log_size, options.timeout, options.init) == (8 * 1024**2, 30.0, False)
    assert options.labels == {"team": "ml"}


@pytest.mark.parametrize(
    ("host", "transport", "text", "url"),
    [
        (
            "unix:///run/user/1000/podman/podman.sock",
            "unix",
            "unix:///run/user/1000/podman/podman.sock",
            "http://docker",
        ),
        ("/run/docker.sock", "unix", "unix:///run/docker.sock", "http://docker"),
        ("tcp://10.0.0.1", "tcp", "tcp://10.0.0.1:2375", "http://10.0.0.1:2375"),
        ("tcp://engine:4000/", "tcp", "tcp://engine:4000", "http://engine:4000"),
        ("tcp://[fd00::1]:2375", "tcp", "tcp://[fd00::1]:2375", "http://[fd00::1]:2375"),
        ("https://engine", "tls", "tcp://engine:2376", "https://engine:2376"),
        ("ssh://gpu-box", "ssh", "ssh://gpu-box/var/run/docker.sock", "http://docker"),
        ("ssh://me@gpu-box:2222", "ssh", "ssh://me@gpu-box:2222/var/run/docker.sock", "http://docker"),
        ("ssh://me@box/run/user/1/p.sock", "ssh", "ssh://me@box/run/user/1/p.sock", "http://docker"),
    ],
)
def test_addresses(host, transport, text, url):
    """An address has the syntax of DOCKER_HOST, or is the path of a socket."""
    address = parse_address(host)

    assert (address.transport, str(address), address.base_url) == (Transport(transport), text, url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hots": "x"}, "hots: unknown key; did you mean 'host'?"),
        ({"nonsense": 1}, "nonsense: unknown key; choose from 'host', 'init', 'labels', 'log-size'"),
        ({"tls": {"certificate": "x"}, "host": "tcp://a"}, "tls.certificate: unknown key"),
        ({"host": "engine:2375"}, "write unix:///var/run/docker.sock"),
        ({"host": "npipe:////./pipe/docker_engine"}, "is not an address of an engine"),
        ({"host": "tcp://engine:port"}, "host: "),
        ({"host": "tcp://"}, "is not an address of an engine"),
        ({"host": "unix://"}, "is not an address of an engine"),
        ({"host": "ssh://me:secret@box"}, "the address contains a password"),
        ({"host": "ssh://-oProxyCommand=reboot"}, "ssh would read a host or user that begins with `-` as an option"),
        ({"host": "ssh://box/a:b"}, "ssh cannot forward a socket whose path contains `:`"),
        ({"host": ""}, "host: "),
        ({"host": 5}, "host: must be a string, not the number 5"),
        ({"tls": {}}, "is not reached over TLS"),
        ({"host": "tcp://a", "tls": {"ca": "/no/such/ca.pem"}}, "tls.ca: there is no file /no/such/ca.pem"),
        ({"log-size": "lots"}, "log-size: 'lots' is not a size"),
        ({"log-size": "1KiB"}, "log-size: must be greater than or equal to"),
        ({"log_size": "8MiB"}, "log_size: unknown key; did you mean 'log-size'?"),
        ({"timeout": "1h"}, "timeout: must be less than or equal to"),
        ({"timeout": True}, "timeout: True is not a duration"),
        ({"labels": {"upshot.job": "mine"}}, "'upshot.job' is not allowed as a label"),
        ({"labels": {"a b": "c"}}, "'a b' is not allowed as a label"),
        ({"labels": {"a": 5}}, "labels.a: must be a string, not the number 5"),
        ({"init": "yes"}, "init: must be true or false, not the string 'yes'"),
    ],
)
def test_invalid_options(options, message):
    """The message for an invalid option names its key and says what to write."""
    with pytest.raises(ConfigError) as error:
        make(options)

    assert message in str(error.value)


def test_invalid_tls_files(tmp_path: Path):
    """Invalid TLS files are reported when the backend is made, before any job starts."""
    for name in ("one", "two"):
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", f"{name}.key"]
        subprocess.run(["openssl", *words, "-out", name], cwd=tmp_path, check=True, capture_output=True)
    tls = {"ca": str(tmp_path / "one"), "cert": str(tmp_path / "one"), "key": str(tmp_path / "one.key")}

    make({"host": "tcp://engine", "tls": tls})
    for wrong in ({"key": str(tmp_path / "two.key")}, {"ca": str(tmp_path / "one.key")}):
        with pytest.raises(ConfigError, match="PEM"):
            make({"host": "tcp://engine", "tls": tls | wrong})
    with pytest.raises(ConfigError, match=r"tls\.cert"):
        make({"host": "tcp://engine", "tls": {"key": str(tmp_path / "one.key")}})
