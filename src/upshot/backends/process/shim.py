"""
Run one command and supervise it. The shim is a program of its own, and outlives the worker that started it.

    worker ── ShimRequest ──► shim ── fork, exec ──► command, in a session of its own
           ◄─── answer ──────      ◄── stdout, stderr, exit code
                              │
              job directory: shim.json, stop.json, log/, result.json

The shim enforces the deadline and the grace period, and kills whatever the command leaves running. It
imports only the standard library and runs without `site`, because it uses memory as long as the command runs.
"""

# ruff: noqa: PTH106, PTH123, PTH208 - pathlib costs time and memory at each start

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple, NoReturn

# Names in a job directory. The worker uses them too.
SHIM_RECORD = "shim.json"  #: created once; its creator runs the command, and keeps the file locked while it lives
STOP_REQUEST = "stop.json"
RESULT = "result.json"
LOG = "log"  #: directory of log segments; the name of a segment is its offset in the whole log
SECRETS = "secrets"
OUTPUT = "output"

_PR_SET_PDEATHSIG = 1  # this constant and the next two are from linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_CHECK_SECONDS = 0.25  # between two checks for a stop request
_CHUNK_BYTES = 256 * 1024
_MAX_CHUNKS = 16  # read in a row before the shim does anything else
_PIPE_BYTES = 1024 * 1024  # the most that an unprivileged process may ask for
_KILL_SECONDS = 10.0  # a process that survives SIGKILL for so long is stuck in the kernel
_FULL_DISK_SECONDS = 3600.0
_STOP_REQUEST_BYTES = 4096
_SIGNALLED = 128  # shells and container engines report the end by signal N as 128 + N
_NOT_STARTED = 127  # shells report this code for a command that they cannot run


class ShimRequest(NamedTuple):
    """What the worker asks the shim to run. It goes through a pipe, because it contains secrets."""

    directory: str  #: the job directory
    argv: list[str]
    env: dict[str, str]  #: the complete environment
    workdir: str
    timeout_seconds: float
    grace_seconds: float
    log_bytes: int  #: how much of the log to keep; the newest bytes stay
    rlimits: dict[str, int]  #: limit by resource name: RLIMIT_…
    cpus: list[int]  #: CPUs that the command may run on; empty: all of them
    uid: int | None  #: None: run as the worker's user, with the worker's groups
    gid: int
    groups: list[int]
    cgroup: str | None  #: directory of the job's cgroup
    memory_events: str | None  #: file in which the kernel counts OOM kills; None: no cgroup limits the memory


class ShimResult(NamedTuple):
    """How the command ended. `failure` is a value of `FailureKind`."""

    exit_code: int | None
    finished_at: float
    failure: str | None = None
    note: str | None = None


# --- processes ------------------------------------------------------------------------------------


class Process(NamedTuple):
    """An entry of the kernel's process table."""

    pid: int
    parent_pid: int
    session_id: int
    start_ticks: int  #: start time since boot; together with the pid, it identifies a process
    is_dead: bool  #: it has ended, and its parent has not reaped it yet


def read_process(pid: int | str) -> Process | None:
    """Return the kernel's entry for a process, or None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may contain any byte: see proc(5).
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(int(pid), int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


def list_processes() -> list[Process]:
    """Return all living processes."""
    processes = [read_process(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return [process for process in processes if process is not None and not process.is_dead]


def descendants(roots: set[int], processes: list[Process]) -> set[int]:
    """Return the pids of all descendants of these processes, without the processes themselves."""
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent_pid, []).append(process.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found - roots


def cgroup_pids(cgroup: str | None) -> set[int]:
    """Return the pids of all processes in a cgroup."""
    if cgroup is None:
        return set()
    try:
        with open(f"{cgroup}/cgroup.procs", "rb") as file:
            return {int(line) for line in file.read().split() if line != b"0"}  # 0: in another pid namespace
    except OSError:
        return set()


def send_signal(pids: set[int], signum: int) -> None:
    """Send a signal to each of these processes that exists and that this process may signal."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signum)


def boot_id() -> str:
    """Return the id that the kernel chose when the machine was started."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


# --- files ----------------------------------------------------------------------------------------


def create_file(dir_fd: int, name: str, data: bytes, mode: int = 0o600) -> int:
    """Create a file that does not exist yet, flush it to disk, and return its open descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, mode, dir_fd=dir_fd)
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    except OSError:
        os.close(fd)
        os.unlink(name, dir_fd=dir_fd)
        raise
    return fd


def create_record(dir_fd: int, name: str, record: dict[str, Any], *, lock: bool = False) -> int | None:
    """
    Create a JSON file atomically. Readers see all of its content or no file.

    Args:
        dir_fd: Open directory.
        name: Name of the file.
        record: Its content.
        lock: Lock the file before it becomes visible, and until its descriptor is closed.

    Returns:
        The open descriptor, or None if the file exists already.
    """
    draft = f".{name}.{os.urandom(8).hex()}"
    fd = create_file(dir_fd, draft, json.dumps(record).encode())
    try:
        if lock:
            fcntl.flock(fd, fcntl.LOCK_EX)
        os.link(draft, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        os.close(fd)
        if isinstance(error, FileExistsError):
            return None
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):  # a reader may have removed it
            os.unlink(draft, dir_fd=dir_fd)
    os.fsync(dir_fd)
    return fd


def _read_stop_request(dir_fd: int) -> Any:
    """Return the stop request, or None if no readable one exists."""
    try:
        fd = os.open(STOP_REQUEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        return json.loads(os.read(fd, _STOP_REQUEST_BYTES))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


class LogWriter:
    """
    Writes the log in at most two segments. When the newer one is full, it deletes the older one.

    Args:
        dir_fd: The open job directory.
        keep_bytes: Maximum size of both segments together.
    """

    def __init__(self, dir_fd: int, keep_bytes: int) -> None:
        self._dir_fd = os.open(LOG, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        self._segment_bytes = max(keep_bytes // 2, 4096)
        self._segments = [0]  # offsets in the whole log
        self._offset = 0
        self._fd = create_file(self._dir_fd, "0", b"")

    def write(self, data: bytes) -> None:
        """Append data. If the disk is full, drop what cannot be written, so that the command does not block."""
        rest = memoryview(data)
        with contextlib.suppress(OSError):
            while rest:
                if self._offset - self._segments[-1] >= self._segment_bytes:
                    self._rotate()
                written = os.write(self._fd, rest[: self._segments[-1] + self._segment_bytes - self._offset])
                self._offset += written
                rest = rest[written:]

    def _rotate(self) -> None:
        fd = create_file(self._dir_fd, str(self._offset), b"")
        os.close(self._fd)
        self._fd = fd
        self._segments.append(self._offset)
        while len(self._segments) > 2:  # noqa: PLR2004 - see the class
            os.unlink(str(self._segments.pop(0)), dir_fd=self._dir_fd)


# --- start the command ----------------------------------------------------------------------------


class ExecFailed(Exception):
    """The command cannot be run. The text says why."""


def _start_command(request: ShimRequest) -> tuple[int, int]:
    """
    Start the command.

    Returns:
        The command's pid, and the read end of the pipe that it writes its output to.

    Raises:
        ExecFailed: The command cannot be run.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    if request.uid is not None:
        os.fchown(write_end, request.uid, request.gid)  # only the owner may open /dev/stderr again
    error_read_end, error_write_end = os.pipe2(os.O_CLOEXEC)
    shim_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _exec_child(request, write_end, error_write_end, shim_pid)
    os.close(write_end)
    os.close(error_write_end)
    with open(error_read_end, "rb") as file:
        reason = file.read().decode("utf-8", "replace")  # a successful exec closes the pipe
    if reason:
        os.waitpid(pid, 0)
        raise ExecFailed(reason)
    os.set_blocking(read_end, False)
    return pid, read_end


def _exec_child(request: ShimRequest, output: int, errors: int, shim_pid: int) -> NoReturn:
    """Replace the forked child with the command. If that fails, write the reason to `errors` and exit."""
    step = "add it to its cgroup"
    try:
        os.setsid()
        if request.cgroup is not None:
            with open(f"{request.cgroup}/cgroup.procs", "w", encoding="ascii") as file:
                file.write("0")  # the writing process itself: see cgroups(7)
        step = "set its limits"
        if request.cpus:
            os.sched_setaffinity(0, request.cpus)
        for name, value in request.rlimits.items():
            number = getattr(resource, name)
            hard_limit = resource.getrlimit(number)[1]
            limit = value if hard_limit == resource.RLIM_INFINITY else min(value, hard_limit)
            resource.setrlimit(number, (limit, limit))
        step = f"run it as user {request.uid}"
        if request.uid is not None:
            os.setgroups(request.groups)
            os.setresgid(request.gid, request.gid, request.gid)
            os.setresuid(request.uid, request.uid, request.uid)
        step = "tie it to its shim"
        # With setuid programs, the command could become a user whose processes the shim may not kill.
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim_pid:
            os._exit(_NOT_STARTED)
        step = f"change to its working directory {request.workdir}"
        os.chdir(request.workdir)
        os.umask(0o022)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError):  # the C library reserves two of them
                signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = f"run {request.argv[0]!r}"
        os.execvpe(request.argv[0], request.argv, request.env)  # noqa: S606 - no shell is involved
    except Exception as error:  # noqa: BLE001 - the parent must learn of every error
        os.write(errors, f"cannot {step}: {_explain(error, request)}".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(_NOT_STARTED)


def _explain(error: Exception, request: ShimRequest) -> str:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    path = getattr(error, "filename", None)
    if path == request.workdir and isinstance(error, PermissionError):
        return f"{reason}; user {os.getuid()} must be able to enter it and all directories above it"
    # `execvpe` tries each directory of PATH, and reports the last path that it tried.
    if isinstance(path, str | bytes) and os.fsdecode(path).endswith(f"/{request.argv[0]}"):
        return f"{reason} in PATH, which is {request.env.get('PATH')}"
    return reason


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# --- supervise the command ------------------------------------------------------------------------


class CommandMonitor:
    """
    Supervises a running command until the command and everything that it started have ended.

    Args:
        request: What the worker asked for.
        dir_fd: The open job directory.
        pid: The command's pid.
        read_end: Read end of the pipe that the command writes its output to.
    """

    def __init__(self, request: ShimRequest, dir_fd: int, pid: int, read_end: int) -> None:
        self._request = request
        self._dir_fd = dir_fd
        self._pid = pid
        self._read_end = read_end
        self._log = LogWriter(dir_fd, request.log_bytes)
        self._wait_status: int | None = None
        self._finished_at = 0.0
        self._deadline = _monotonic() + request.timeout_seconds
        self._kill_at: float | None = None
        self._stop_request: Any = None
        self._check_at = 0.0
        self._stop_reason: str | None = None  #: the first reason to terminate the command
        self._sent_kill = False
        self._got_sigterm = False  #: the shim itself got SIGTERM
        self._wakeup_fd, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(signum, self._on_signal)
        self._poll = select.poll()
        self._poll.register(read_end, select.POLLIN)
        self._poll.register(self._wakeup_fd, select.POLLIN)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._got_sigterm = self._got_sigterm or signum == signal.SIGTERM
        self._check_at = 0.0

    def run(self) -> ShimResult:
        """Wait until the command and everything that it started have ended, and return the result."""
        while self._wait_status is None:
            self._wait(_CHECK_SECONDS)
            self._reap_children()
            if self._wait_status is None:
                self._enforce()
        if self._stop_reason is not None:
            self._terminate_descendants()
        give_up_at = _monotonic() + _KILL_SECONDS
        while (is_anything_left := self._reap_children()) and _monotonic() < give_up_at:
            kill_descendants(self._request.cgroup)
            self._wait(0.01)
        self._copy_output(4 * _PIPE_BYTES // _CHUNK_BYTES)
        return self._result(self._wait_status, is_anything_left=is_anything_left)

    def _wait(self, seconds: float) -> None:
        for fd, _ in self._poll.poll(seconds * 1000):
            if fd == self._wakeup_fd:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup_fd, 4096)
            else:
                self._copy_output(_MAX_CHUNKS)

    def _copy_output(self, max_chunks: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(max_chunks):
                data = os.read(self._read_end, _CHUNK_BYTES)
                if not data:  # all writers have closed the pipe
                    with contextlib.suppress(KeyError):
                        self._poll.unregister(self._read_end)
                    return
                self._log.write(data)

    def _reap_children(self) -> bool:
        """Reap the children that have ended, and return whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._wait_status, self._finished_at = status, _wall_time()

    def _enforce(self) -> None:
        """Act on stop requests, the deadline and the end of the grace period. Do nothing between two checks."""
        now = _monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_SECONDS
        stop_request = _read_stop_request(self._dir_fd)
        if isinstance(stop_request, dict) and stop_request != self._stop_request:
            self._stop_request = stop_request
            grace = stop_request.get("grace_seconds")
            self._terminate("stopped", float(grace) if isinstance(grace, int | float) else 0.0)
        if os.fstat(self._dir_fd).st_nlink == 0:  # somebody deleted the directory, so no worker can find this job
            self._terminate("directory deleted", self._request.grace_seconds)
        if self._got_sigterm:
            self._terminate("shim terminated", self._request.grace_seconds)
        if now >= self._deadline:
            self._deadline = float("inf")
            self._terminate("timed out", self._request.grace_seconds)
        if self._kill_at is not None and _monotonic() >= self._kill_at:
            self._sent_kill = True
            kill_descendants(self._request.cgroup)

    def _terminate(self, reason: str, grace_seconds: float) -> None:
        """Send SIGTERM to the command once, and plan the kill. The shortest grace period wins."""
        kill_at = _monotonic() + grace_seconds
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
        if self._stop_reason is None:
            self._stop_reason = reason
            send_signal({self._pid}, signal.SIGTERM)  # container engines, too, signal only the first process

    def _terminate_descendants(self) -> None:
        """Send SIGTERM to what a terminated command left running, and wait for the rest of the grace period."""
        if self._reap_children():
            send_signal(descendants({os.getpid()}, list_processes()), signal.SIGTERM)
        while self._kill_at is not None and self._reap_children() and _monotonic() < self._kill_at:
            self._wait(_CHECK_SECONDS)
            self._enforce()

    def _result(self, wait_status: int, *, is_anything_left: bool) -> ShimResult:
        code = os.waitstatus_to_exitcode(wait_status)
        code = code if code >= 0 else _SIGNALLED - code
        failure = note = None
        if self._stop_reason == "timed out":
            failure = "timed-out"
        elif code != 0 and _was_out_of_memory(self._request.memory_events):
            failure = "out-of-memory"
        elif self._got_sigterm and code > _SIGNALLED:
            failure, note = "engine-lost", "its shim was terminated, as happens when the machine shuts down"
        elif code == _SIGNALLED + signal.SIGKILL and not self._sent_kill:
            note = "Upshot did not kill it; a person may have, or the kernel because memory ran out"
        if is_anything_left:
            note = f"some of its processes could not be killed{f'; {note}' if note else ''}"
        return ShimResult(code, self._finished_at, failure, note)


def _was_out_of_memory(memory_events: str | None) -> bool:
    """Return whether the kernel's OOM killer has killed a process of the cgroup."""
    if memory_events is None:
        return False
    with contextlib.suppress(OSError, ValueError), open(memory_events, encoding="ascii") as file:
        counts = dict(line.split() for line in file)
        return int(counts.get("oom_kill", 0)) > 0
    return False


def kill_all(find: Callable[[], set[int]]) -> None:
    """
    Kill all processes that `find` returns, and those that they start in the meantime.

    All of them are stopped first. A process that keeps forking then cannot outrun this function, as
    long as the number of processes is limited.

    Args:
        find: Returns the pids of the processes that exist now.
    """
    stopped: set[int] = set()
    for _ in range(50):
        found = find()
        if not found - stopped:
            break
        send_signal(found - stopped, signal.SIGSTOP)
        stopped |= found
    send_signal(stopped & find(), signal.SIGKILL)


def kill_descendants(cgroup: str | None) -> None:
    """Kill everything that the command started. Orphans become children of the shim: see subreaper in prctl(2)."""
    kill_all(lambda: descendants({os.getpid()}, list_processes()) | cgroup_pids(cgroup))


def _monotonic() -> float:
    """Return the seconds of a clock that continues while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _wall_time() -> float:
    return time.time()  # noqa: TID251 - this program runs without Upshot


# --- from the request to the result ---------------------------------------------------------------


def main() -> int:
    """Read the request from standard input, run the command, and record its result. Nobody reads the exit code."""
    _detach()
    try:
        request = ShimRequest(**json.loads(sys.stdin.buffer.read()))
    except (ValueError, TypeError):
        return 1  # The worker died while it wrote the request. Nothing is claimed, so the next worker starts the job.
    process = read_process(os.getpid())
    assert process is not None  # noqa: S101 - it is this process
    record = {"pid": process.pid, "start_ticks": process.start_ticks, "boot_id": boot_id(), "started_at": _wall_time()}
    try:
        dir_fd = os.open(request.directory, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        claim = create_record(dir_fd, SHIM_RECORD, record, lock=True)
    except FileNotFoundError:
        _answer(directory_missing=True)
        return 1
    except OSError as error:
        _answer(error=f"cannot write {SHIM_RECORD}: {error.strerror}")
        return 1
    if claim is None:
        _answer(already_claimed=True)
        return 1
    result = _run(request, dir_fd)
    _clean_up(request, dir_fd)
    _write_result(result, dir_fd)
    return 0


def _detach() -> None:
    """Become an orphan in a new session, which signals to the worker's terminal and process group do not reach."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    os.setsid()


def _answer(**answer: object) -> None:
    """Send the answer to the worker, if it is still there, and close all connections to it."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(answer).encode())
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)


def _run(request: ShimRequest, dir_fd: int) -> ShimResult:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        pid, read_end = _start_command(request)
    except ExecFailed as error:
        _answer(refused=str(error))
        return ShimResult(None, _wall_time(), "refused", str(error))
    _answer(pid=os.getpid())
    try:
        return CommandMonitor(request, dir_fd, pid, read_end).run()
    except Exception as error:  # noqa: BLE001 - only the shim can report how the command ended
        kill_descendants(request.cgroup)
        return ShimResult(None, _wall_time(), "engine-lost", f"its shim failed: {error!r}")


def _clean_up(request: ShimRequest, dir_fd: int) -> None:
    """Remove the secret files and the cgroup, which must not outlive the command."""
    with contextlib.suppress(OSError):
        secrets = os.open(SECRETS, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        for name in os.listdir(secrets):
            os.unlink(name, dir_fd=secrets)
    if request.cgroup is None:
        return
    for _ in range(20):
        try:
            os.rmdir(request.cgroup)
        except FileNotFoundError:
            return
        except OSError:  # for a moment after the last process has ended, the kernel still reports the cgroup as busy
            time.sleep(0.05)
        else:
            return


def _write_result(result: ShimResult, dir_fd: int) -> None:
    """Write the result. If the disk is full, try again; the job counts as running until the write succeeds."""
    give_up_at = _monotonic() + _FULL_DISK_SECONDS
    while _monotonic() < give_up_at:
        try:
            create_record(dir_fd, RESULT, result._asdict())
        except FileNotFoundError:  # the job was removed
            return
        except OSError:
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
