"""Secrets: from the environment and from files, read at the moment of use."""

from __future__ import annotations

import pytest

from upshot.adapters.secrets import CombinedSecrets, EnvironmentSecrets, FolderSecrets
from upshot.errors import ConfigError


def test_the_environment_gives_secrets_by_their_prefix(monkeypatch):
    """`UPSHOT_SECRET_GITHUB_TOKEN` is `GITHUB_TOKEN`; settings are no secrets."""
    monkeypatch.setenv("UPSHOT_SECRET_GITHUB_TOKEN", "ghp_x")
    monkeypatch.setenv("UPSHOT_TOKEN", "not a secret of this kind")
    secrets = EnvironmentSecrets()

    assert secrets.get("GITHUB_TOKEN") == "ghp_x"
    assert secrets.get("TOKEN") is None
    assert secrets.names() == {"GITHUB_TOKEN"}


def test_a_file_is_a_secret_and_may_change_under_us(tmp_path):
    """Rotation needs no restart: the file is read when the secret is used; one final line break does not count."""
    secrets = FolderSecrets(tmp_path)
    (tmp_path / "TOKEN").write_text("old\n")
    before = secrets.get("TOKEN")
    (tmp_path / "TOKEN").write_text(" new \n\r\n")

    assert before == "old"
    assert secrets.get("TOKEN") == " new \n"
    assert secrets.names() == {"TOKEN"}


def test_kubernetes_links_are_followed(tmp_path):
    """Kubernetes mounts a secret as a link to a link into a folder that begins with dots."""
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "TOKEN").write_text("x")
    (tmp_path / "..data").symlink_to(data)
    (tmp_path / "TOKEN").symlink_to(tmp_path / "..data" / "TOKEN")

    assert FolderSecrets(tmp_path).get("TOKEN") == "x"
    assert FolderSecrets(tmp_path).names() == {"TOKEN"}


@pytest.mark.parametrize(
    "name", ["../outside", "..", ".", "", "a/b", "/etc/passwd", "TOKEN\n", "TOKEN\x00", "a.b", "x" * 300]
)
def test_a_name_is_never_a_path(tmp_path, name):
    """No name leads out of the folder, or breaks the look-up."""
    (tmp_path / "outside").write_text("x")
    folder = tmp_path / "secrets"
    folder.mkdir()

    assert FolderSecrets(folder).get(name) is None
    assert EnvironmentSecrets().get(name) is None


@pytest.mark.parametrize(
    ("content", "finding"), [(b"\xff\xfe", "not text in UTF-8"), (b"x" * (64 * 1024 + 1), "larger than 64 KB")]
)
def test_a_file_that_is_no_secret_is_named(tmp_path, content, finding):
    """The operator reads which file and what is wrong, and never its content."""
    (tmp_path / "TOKEN").write_bytes(content)

    with pytest.raises(ConfigError, match=finding) as raised:
        FolderSecrets(tmp_path).get("TOKEN")

    assert str(tmp_path / "TOKEN") in str(raised.value)


def test_what_is_not_there_is_none(tmp_path):
    """A missing file, a missing folder, a folder in place of a file."""
    (tmp_path / "FOLDER").mkdir()

    assert FolderSecrets(tmp_path).get("FOLDER") is None
    assert FolderSecrets(tmp_path).get("MISSING") is None
    assert FolderSecrets(tmp_path / "missing").get("TOKEN") is None
    assert FolderSecrets(tmp_path / "missing").names() == set()


def test_sources_are_asked_in_order(tmp_path, monkeypatch):
    """The first that knows a name gives its value."""
    monkeypatch.setenv("UPSHOT_SECRET_A", "from the environment")
    (tmp_path / "A").write_text("from a file")
    (tmp_path / "B").write_text("from a file")
    secrets = CombinedSecrets([EnvironmentSecrets(), FolderSecrets(tmp_path)])

    assert (secrets.get("A"), secrets.get("B"), secrets.get("C")) == ("from the environment", "from a file", None)
    assert secrets.names() == {"A", "B"}
