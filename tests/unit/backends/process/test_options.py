"""Options of a process backend in the operator's file."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from upshot.backends.catalog import make_backends
from upshot.backends.process import options as process_options
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable
from upshot.backends.process.options import read_options
from upshot.errors import ConfigError
from upshot.schema.queues import PROCESS, BackendSettings, JobsConfig

USER = pwd.getpwuid(os.geteuid()).pw_name


def test_options_have_defaults(tmp_path):
    """A directory and a user are enough. The default environment is the least that a command needs."""
    options = read_options({"directory": str(tmp_path / "jobs"), "user": USER})

    assert options.directory == tmp_path / "jobs"
    assert options.account.name == USER
    assert options.account.is_worker
    assert options.env == ("PATH", "LANG")
    assert options.cgroup is None


@pytest.mark.parametrize(
    ("written", "finding"),
    [
        ({"directry": "/x"}, "directry: unknown key; did you mean 'directory'?"),
        ({"x": 1}, "x: unknown key; choose from 'cgroup', 'directory', 'env', 'limits', 'log-size', 'user'"),
        ({"log_size": "1MiB"}, "log_size: unknown key; did you mean 'log-size'?"),
        ({"directory": None}, "directory: must be a string, not null"),
        ({"limits": {"files": 3}}, "limits.files: unknown key"),
        ({"directory": 3}, "directory: must be a string, not the number 3"),
        ({"env": "PATH"}, "env: must be a list, not the string 'PATH'"),
        ({"env": ["A=B"]}, "env: 'A=B' is not the name of a variable"),
        ({"env": ["UPSHOT_SECRET_KEY"]}, "env: UPSHOT_SECRET_KEY belongs to the worker"),
        ({"log-size": "1KiB"}, "log-size: must be greater than or equal to 8192"),
        ({"log-size": 1}, "log-size: 1 is not a size; write 1B"),
        ({"limits": {"file-size": "1 G"}}, "limits.file-size: '1 G' is not a size; write"),
        ({"user": "no-such-user"}, "this machine has no user 'no-such-user'"),
        ({"user": ["x"]}, "user: ['x'] is not a user; write a name or a number"),
        ({"user": 4_000_000_000}, "this machine has no user '4000000000'"),
        ({"user": ""}, "this machine has no user ''"),
        ({"cgroup": "/sys/fs/cgroup/x"}, "is not a path below the cgroup mount"),
        ({"cgroup": "a/../../b"}, "is not a path below the cgroup mount"),
    ],
)
def test_a_mistake_is_named(written, finding):
    """The error names the wrong key or value, and the right key if a similar one exists."""
    with pytest.raises(ConfigError, match=re.escape(finding)):
        read_options({"directory": "/srv/jobs", "user": USER, **written})


async def test_each_declared_backend_has_its_own_directory(tmp_path):
    """Two process backends without the option `directory` are two engines in the data directory."""
    config = JobsConfig(backends={name: BackendSettings(PROCESS, {"user": USER}) for name in ("first", "second")})

    engine_ids = {await backend.engine_id() for backend in make_backends(config, tmp_path).values()}

    assert len(engine_ids) == 2
    assert sorted(path.name for path in (tmp_path / "processes").iterdir()) == ["first", "second"]


def test_a_directory_is_required():
    """A backend that is made outside of the catalog has no default directory."""
    with pytest.raises(ConfigError, match="directory: this field is required"):
        read_options({"user": USER})


def test_a_worker_that_runs_as_root_needs_a_user(monkeypatch):
    """Authors of automations do not get root's rights because an operator forgot a line."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    with pytest.raises(ConfigError, match="name the user that commands run as"):
        read_options({"directory": "/srv/jobs"})


def test_another_user_needs_a_worker_that_runs_as_root(monkeypatch):
    """The options are refused when the file is read, not when the first job fails."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)

    with pytest.raises(ConfigError, match="only a worker that runs as root"):
        read_options({"directory": "/srv/jobs", "user": "root"})


def test_cgroups_are_used_where_the_machine_has_them(monkeypatch):
    """The path in the option is below the mount."""
    monkeypatch.setattr(process_options, "find_cgroup_mount", lambda mountinfo: Path("/sys/fs/cgroup"))

    options = read_options({"directory": "/srv/jobs", "user": USER, "cgroup": "system.slice/upshot"})

    assert options.cgroup == Cgroup(Path("/sys/fs/cgroup"), Path("system.slice/upshot"))


def test_cgroups_that_the_machine_does_not_have_are_an_error(monkeypatch):
    """Limits that an operator has asked for are not silently replaced by weaker ones."""

    def fail(mountinfo):
        raise CgroupsUnavailable("this machine has none; leave `cgroup` out")

    monkeypatch.setattr(process_options, "find_cgroup_mount", fail)

    with pytest.raises(ConfigError, match="cgroup: this machine has none; leave `cgroup` out"):
        read_options({"directory": "/srv/jobs", "user": USER, "cgroup": "upshot"})
