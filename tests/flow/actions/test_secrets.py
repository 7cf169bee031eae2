"""Secrets come from the environment and from files, and are read when they are used."""

from __future__ import annotations

import pytest

from upshot.adapters.secrets import CombinedSecrets, DirectorySecrets, EnvironmentSecrets
from upshot.errors import ConfigError


def test_environment_variables_with_the_prefix_are_secrets(monkeypatch):
    """`UPSHOT_SECRET_GITHUB_TOKEN` is the secret `GITHUB_TOKEN`. Settings are not secrets."""
    monkeypatch.setenv("UPSHOT_SECRET_GITHUB_TOKEN", "ghp_x")
    monkeypatch.setenv("UPSHOT_TOKEN", "not a secret of this kind")
    secrets = EnvironmentSecrets()

    assert secrets.get("GITHUB_TOKEN") == "ghp_x"
    assert secrets.get("TOKEN") is None
    assert secrets.names() == {"GITHUB_TOKEN"}


def test_a_changed_file_is_the_new_secret(tmp_path):
    """A secret can be rotated without a restart, because its file is read each time. One final newline is removed."""
    secrets = DirectorySecrets(tmp_path)
    (tmp_path / "TOKEN").write_text("old\n")
    before = secrets.get("TOKEN")
    (tmp_path / "TOKEN").write_text(" new \n\r\n")

    assert before == "old"
    assert secrets.get("TOKEN") == " new \n"
    assert secrets.names() == {"TOKEN"}


def test_kubernetes_links_are_followed(tmp_path):
    """Kubernetes mounts a secret as a link to a link into a directory whose name begins with dots."""
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "TOKEN").write_text("x")
    (tmp_path / "..data").symlink_to(data)
    (tmp_path / "TOKEN").symlink_to(tmp_path / "..data" / "TOKEN")

    assert DirectorySecrets(tmp_path).get("TOKEN") == "x"
    assert DirectorySecrets(tmp_path).names() == {"TOKEN"}


@pytest.mark.parametrize(
    "name", ["../outside", "..", ".", "", "a/b", "/etc/passwd", "TOKEN\n", "TOKEN\x00", "a.b", "x" * 300]
)
def test_a_name_is_never_a_path(tmp_path, name):
    """No name leads out of the directory or raises an error."""
    (tmp_path / "outside").write_text("x")
    directory = tmp_path / "secrets"
    directory.mkdir()

    assert DirectorySecrets(directory).get(name) is None
    assert EnvironmentSecrets().get(name) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfet\x00", "is UTF-16 text; save the secret as UTF-8 without BOM"),
        (b"tok\xe9n", "not UTF-8 text"),
        (b"x" * (64 * 1024 + 1), "larger than 64 KB"),
        (b"", "is empty; write the secret into the file"),
        (b" \r\n", "is empty"),
        (b"\xef\xbb\xbftoken\n", "begins with a byte order mark; save it as UTF-8 without BOM"),
    ],
)
def test_a_file_that_is_not_a_secret_is_reported(tmp_path, content, message):
    """The error contains the path and the reason, and never the content of the file."""
    (tmp_path / "TOKEN").write_bytes(content)

    with pytest.raises(ConfigError, match=message) as raised:
        DirectorySecrets(tmp_path).get("TOKEN")

    assert str(tmp_path / "TOKEN") in str(raised.value)


@pytest.mark.parametrize(
    ("value", "message"), [("", "is empty"), (" \n", "is empty"), ("\ufefftoken", "byte order mark")]
)
def test_a_variable_that_is_not_a_secret_is_reported(monkeypatch, value, message):
    """An empty variable would be sent as it is. Compose sets one for each variable that it does not know."""
    monkeypatch.setenv("UPSHOT_SECRET_TOKEN", value)

    with pytest.raises(ConfigError, match=f"^UPSHOT_SECRET_TOKEN: .*{message}"):
        EnvironmentSecrets().get("TOKEN")


def test_a_missing_secret_is_none(tmp_path):
    """A missing file, a missing directory, and a directory in place of a file are not secrets."""
    (tmp_path / "DIRECTORY").mkdir()

    assert DirectorySecrets(tmp_path).get("DIRECTORY") is None
    assert DirectorySecrets(tmp_path).get("MISSING") is None
    assert DirectorySecrets(tmp_path / "missing").get("TOKEN") is None
    assert DirectorySecrets(tmp_path / "missing").names() == set()


def test_the_first_source_with_a_secret_provides_it(tmp_path, monkeypatch):
    """Sources are asked in order, and the first one that has the secret returns its value."""
    monkeypatch.setenv("UPSHOT_SECRET_A", "from the environment")
    (tmp_path / "A").write_text("from a file")
    (tmp_path / "B").write_text("from a file")
    secrets = CombinedSecrets([EnvironmentSecrets(), DirectorySecrets(tmp_path)])

    assert (secrets.get("A"), secrets.get("B"), secrets.get("C")) == ("from the environment", "from a file", None)
    assert secrets.names() == {"A", "B"}
