"""Functions of the shim. Its behaviour with real commands is tested in `tests/live/test_process_jobs.py`."""

from __future__ import annotations

import os

from upshot.backends.process.shim import Process, cgroup_pids, create_record, descendants, read_process


def test_a_record_is_created_once_and_atomically(dir_fd, tmp_path):
    """The second creator gets None, and the first one's record stays."""
    first = create_record(dir_fd, "claim", {"creator": 1})
    second = create_record(dir_fd, "claim", {"creator": 2})

    assert first is not None
    assert second is None
    assert (tmp_path / "claim").read_text() == '{"creator": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]
    os.close(first)


def test_the_process_table_is_read():
    """This process has the right parent and session. A pid that no process has is None."""
    process = read_process(os.getpid())

    assert process is not None
    assert (process.parent_pid, process.session_id, process.is_dead) == (os.getppid(), os.getsid(0), False)
    assert read_process(2**22 + 1) is None


def test_descendants_of_all_generations_are_found():
    """Children and grandchildren are found, but not ancestors and other processes."""
    table = [Process(pid, parent, 1, 0, is_dead=False) for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 1))]

    assert descendants({2}, table) == {3, 4}


def test_the_processes_of_a_cgroup_are_read(tmp_path):
    """Processes of other pid namespaces, which the kernel lists as 0, are left out. A missing cgroup has none."""
    (tmp_path / "cgroup.procs").write_text("12\n0\n34\n")

    assert cgroup_pids(str(tmp_path)) == {12, 34}
    assert cgroup_pids(str(tmp_path / "missing")) == set()
    assert cgroup_pids(None) == set()
