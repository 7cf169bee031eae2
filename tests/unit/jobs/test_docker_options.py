"""What an operator can write of a Docker backend, and what is said where it cannot be meant."""

import subprocess
from pathlib import Path

import pytest

from upshot.backends.docker import make
from upshot.backends.docker.options import DEFAULT_LOG_BYTES, Transport, read_address, read_settings
from upshot.errors import ConfigError


def test_nothing_has_to_be_said():
    """Without any options it is the engine of the machine."""
    settings = read_settings({})

    assert str(settings.address) == "unix:///var/run/docker.sock"
    assert (settings.log_size, settings.timeout, settings.init) == (DEFAULT_LOG_BYTES, 10.0, True)


def test_everything_that_can_be_said():
    """Keys are in kebab-case, sizes and times as people write them."""
    settings = read_settings(
        {
            "host": "tcp://engine",
            "labels": {"team": "ml"},
            "log-size": "8MiB",
            "timeout": "30s",
            "init": False,
            "tls": {},
        }
    )

    assert str(settings.address) == "tcp://engine:2376"
    assert (settings.log_size, settings.timeout, settings.init) == (8 * 1024**2, 30.0, False)
    assert settings.labels == {"team": "ml"}


@pytest.mark.parametrize(
    ("host", "transport", "shown", "url"),
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
def test_addresses(host, transport, shown, url):
    """An engine is named as DOCKER_HOST names it."""
    address = read_address(host)

    assert (address.transport, str(address), address.base_url) == (Transport(transport), shown, url)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hots": "x"}, "hots: unknown key; did you mean 'host'?"),
        ({"nonsense": 1}, "nonsense: unknown key; it has host, tls, labels, log-size"),
        ({"tls": {"certificate": "x"}, "host": "tcp://a"}, "tls.certificate: unknown key"),
        ({"host": "engine:2375"}, "write unix:///var/run/docker.sock"),
        ({"host": "npipe:////./pipe/docker_engine"}, "is no address of an engine"),
        ({"host": "tcp://engine:port"}, "host: "),
        ({"host": "tcp://"}, "is no address of an engine"),
        ({"host": "unix://"}, "is no address of an engine"),
        ({"host": "ssh://me:secret@box"}, "a password has no place in an address"),
        ({"host": "ssh://-oProxyCommand=reboot"}, "would take a name that begins with `-` for an option"),
        ({"host": "ssh://box/a:b"}, "which ssh cannot forward"),
        ({"host": ""}, "host: "),
        ({"host": 5}, "host: 5"),
        ({"tls": {}}, "is not reached over TLS"),
        ({"host": "tcp://a", "tls": {"ca": "/no/such/ca.pem"}}, "tls.ca: there is no file /no/such/ca.pem"),
        ({"log-size": "lots"}, "log-size: 'lots' is not a size"),
        ({"log-size": "1KiB"}, "log-size: "),
        ({"log_size": "8MiB"}, "log_size: unknown key; did you mean 'log-size'?"),
        ({"timeout": "1h"}, "timeout: "),
        ({"timeout": True}, "timeout: True is not a duration"),
        ({"labels": {"upshot.job": "mine"}}, "'upshot.job' is no name that a label can have here"),
        ({"labels": {"a b": "c"}}, "'a b' is no name"),
        ({"labels": {"a": 5}}, "labels.a: 5"),
        ({"init": "yes"}, "init: 'yes'"),
    ],
)
def test_what_cannot_be_meant(options, said):
    """The message names the key, what is wrong with it, and what to write."""
    with pytest.raises(ConfigError) as refused:
        make(options)

    assert said in str(refused.value)


def test_certificates_that_do_not_belong_together(tmp_path: Path):
    """It is said when the worker starts, not when the first job does."""
    for name in ("one", "two"):
        words = [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=x",
            "-keyout",
            f"{name}.key",
            "-out",
            name,
        ]
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    tls = {"ca": str(tmp_path / "one"), "cert": str(tmp_path / "one"), "key": str(tmp_path / "one.key")}

    make({"host": "tcp://engine", "tls": tls})
    for wrong in ({"key": str(tmp_path / "two.key")}, {"ca": str(tmp_path / "one.key")}):
        with pytest.raises(ConfigError, match="PEM"):
            make({"host": "tcp://engine", "tls": tls | wrong})
    with pytest.raises(ConfigError, match=r"tls\.cert"):
        make({"host": "tcp://engine", "tls": {"key": str(tmp_path / "one.key")}})
