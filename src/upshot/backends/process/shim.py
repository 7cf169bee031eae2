"""
Watches over one command, as a program of its own: it outlives the worker that asked for the command.

    worker ── errand ──► shim ── fork, exec ──► command, in a session of its own
           ◄─ answer ──       ◄── both streams, exit code
                         │
                  job's folder: shim.json, stop.json, log/, end.json

It keeps the deadline and the grace of a stop, and ends whatever the command has left running. It uses
the standard library alone and is run without `site`, for it takes memory as long as the command runs.
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

# What lies in a job's folder, for the worker too.
CLAIM = "shim.json"  #: made once; who makes it runs the command, and holds a lock on it while it lives
STOP = "stop.json"  #: the wish that it ends
END = "end.json"
LOG = "log"  #: folder of pieces, each named by where in the whole log it begins
SECRETS = "secrets"
OUTPUT = "output"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h, here and below
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_LOOK_SECONDS = 0.25  # between two looks for a wish to stop
_CHUNK_BYTES = 256 * 1024
_CHUNKS = 16  # read at once, before anything else has its turn
_PIPE_BYTES = 1024 * 1024  # the most that an unprivileged process may ask for
_LAST_KILLS_SECONDS = 10.0  # a process that does not die of SIGKILL for so long hangs in the kernel
_FULL_DISK_SECONDS = 3600.0
_WISH_BYTES = 4096
_SIGNALLED = 128  # a shell's and an engine's way of saying: ended by signal N
_NOTHING_STARTED = 127  # what a shell says of a command that it cannot run


class ShimRequest(NamedTuple):
    """What a worker asks for; handed over through a pipe, for it holds secrets."""

    folder: str  #: the job's
    argv: list[str]
    env: dict[str, str]  #: all of it
    workdir: str
    timeout_seconds: float
    grace_seconds: float
    log_bytes: int  #: kept of the log, the newest
    limits: dict[str, int]  #: by the name of the resource: RLIMIT_…
    cpus: list[int]  #: that it may run on; empty: any
    uid: int | None  #: None: as the worker, with its groups
    gid: int
    groups: list[int]
    cgroups: list[str]  #: folders of the control groups that it is put into
    oom_file: str | None  #: of its control group: counts what the kernel killed for want of memory


class ShimResult(NamedTuple):
    """How it ended; `cause` in the words of `JobCause`."""

    exit_code: int | None
    finished_at: float
    failure: str | None = None
    note: str | None = None


# --- processes ------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A line of the kernel's table of processes."""

    pid: int
    parent: int
    session: int
    ticks: int  #: when it started, since the machine did: with the pid, no other process is this one
    is_dead: bool  #: and not yet taken note of by its parent


def read_process(pid: int | str) -> Process | None:
    """What the kernel says of a process; None when it is not there."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The second field is the program's name in brackets, and may hold anything: proc(5).
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(int(pid), int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


def all_processes() -> list[Process]:
    """All that live now."""
    found = [read_process(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return [process for process in found if process is not None and not process.is_dead]


def descendants(roots: set[int], processes: list[Process]) -> set[int]:
    """All that come from these, and not these."""
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found - roots


def in_cgroups(folders: list[str]) -> set[int]:
    """All processes in these control groups."""
    found: set[int] = set()
    for folder in folders:
        with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", "rb") as file:
            found.update(int(line) for line in file.read().split() if line != b"0")
    return found


def send(pids: set[int], number: int) -> None:
    """Send a signal to each that is there and ours."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def boot_id() -> str:
    """Names the time since the machine was started."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


# --- files ----------------------------------------------------------------------------------------


def write_new(folder: int, name: str, data: bytes, mode: int = 0o600) -> int:
    """Make a file that is not there yet, safe on disk; returns it open."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, mode, dir_fd=folder)
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    except OSError:
        os.close(file)
        os.unlink(name, dir_fd=folder)
        raise
    return file


def publish(folder: int, name: str, data: dict[str, Any], *, lock: bool = False) -> int | None:
    """
    Make a file that appears with its whole content, once; None when it is there already.

    Args:
        folder: Open folder.
        name: Of the file.
        data: Its content, as JSON.
        lock: Hold a lock on it, from before anyone can see it until the file is closed.

    Returns:
        The open file.
    """
    draft = f".{name}.{os.urandom(8).hex()}"
    file = write_new(folder, draft, json.dumps(data).encode())
    try:
        if lock:
            fcntl.flock(file, fcntl.LOCK_EX)
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        os.close(file)
        if isinstance(error, FileExistsError):
            return None
        raise
    finally:
        os.unlink(draft, dir_fd=folder)
    os.fsync(folder)
    return file


def _read_wish(folder: int) -> Any:
    """The wish to stop; None when there is none that can be read."""
    try:
        file = os.open(STOP, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        return json.loads(os.read(file, _WISH_BYTES))
    except (OSError, ValueError):
        return None
    finally:
        os.close(file)


class LogWriter:
    """
    Keeps the newest of what is said, in two pieces at most; the older one goes when the newer is full.

    Args:
        folder: The job's, open.
        keep_bytes: Of both pieces together.
    """

    def __init__(self, folder: int, keep_bytes: int) -> None:
        self._folder = os.open(LOG, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        self._piece_bytes = max(keep_bytes // 2, 4096)
        self._begins = [0]
        self._at = 0
        self._file = write_new(self._folder, "0", b"")

    def write(self, data: bytes) -> None:
        """Add; what cannot be written, for the disk is full, is left out, and the command is not held up."""
        rest = memoryview(data)
        with contextlib.suppress(OSError):
            while rest:
                if self._at - self._begins[-1] >= self._piece_bytes:
                    self._turn_over()
                written = os.write(self._file, rest[: self._begins[-1] + self._piece_bytes - self._at])
                self._at += written
                rest = rest[written:]

    def _turn_over(self) -> None:
        file = write_new(self._folder, str(self._at), b"")
        os.close(self._file)
        self._file = file
        self._begins.append(self._at)
        while len(self._begins) > 2:  # noqa: PLR2004 - see the class
            os.unlink(str(self._begins.pop(0)), dir_fd=self._folder)


# --- the command ----------------------------------------------------------------------------------


def _control(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _limit(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        number = getattr(resource, name)
        ceiling = resource.getrlimit(number)[1]
        value = wanted if ceiling == resource.RLIM_INFINITY else min(wanted, ceiling)
        resource.setrlimit(number, (value, value))


def _become(errand: ShimRequest, said: int, told: int, shim: int) -> NoReturn:
    """In the child: turn into the command; where that fails, tell why and end."""
    doing = "put it into its control group"
    try:
        os.setsid()
        for folder in errand.cgroups:
            with open(f"{folder}/cgroup.procs", "w", encoding="ascii") as file:
                file.write("0")
        doing = "set its limits"
        if errand.cpus:
            os.sched_setaffinity(0, errand.cpus)
        _limit(errand.limits)
        doing = f"run it as user {errand.uid}"
        if errand.uid is not None:
            os.setgroups(errand.groups)
            os.setresgid(errand.gid, errand.gid, errand.gid)
            os.setresuid(errand.uid, errand.uid, errand.uid)
        doing = "tie it to its watcher"
        _control(_PR_SET_NO_NEW_PRIVS, 1)  # it must not become a user whose processes we may not end
        _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim:
            os._exit(_NOTHING_STARTED)
        doing = f"change to its folder {errand.workdir}"
        os.chdir(errand.workdir)
        os.umask(0o022)
        for stream, source in enumerate((os.open(os.devnull, os.O_RDONLY), said, said)):
            os.dup2(source, stream)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError):  # the C library keeps two for itself
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        doing = f"run {errand.argv[0]!r}"
        os.execvpe(errand.argv[0], errand.argv, errand.env)  # noqa: S606 - there is no shell, and none is wanted
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        os.write(told, f"cannot {doing}: {_in_words(error, errand)}".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(_NOTHING_STARTED)


def _in_words(error: Exception, errand: ShimRequest) -> str:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    place = getattr(error, "filename", None)
    if place == errand.workdir and isinstance(error, PermissionError):
        return f"{reason}; user {os.getuid()} must be able to enter it, and all folders above it"
    is_sought = isinstance(place, str | bytes) and os.fsdecode(place).endswith(f"/{errand.argv[0]}")
    return f"{reason} in PATH, which is {errand.env.get('PATH')}" if is_sought else reason


class ExecFailed(Exception):
    """The command could not be run; the text says why."""


def _run(errand: ShimRequest) -> tuple[int, int]:
    """
    Run the command; returns its pid and the pipe that it speaks into.

    Raises:
        NotRun: As it says.
    """
    hears, says = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(says, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    if errand.uid is not None:
        os.fchown(says, errand.uid, errand.gid)  # who opens /dev/stderr anew needs to own it
    finding, told = os.pipe2(os.O_CLOEXEC)
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(errand, says, told, shim)
    os.close(says)
    os.close(told)
    with open(finding, "rb") as file:
        reason = file.read().decode("utf-8", "replace")  # the exec closes the pipe
    if reason:
        os.waitpid(pid, 0)
        raise ExecFailed(reason)
    os.set_blocking(hears, False)
    return pid, hears


class CommandMonitor:
    """
    A command that runs.

    Args:
        errand: As the worker gave it.
        folder: The job's, open.
        pid: The command's.
        hears: The pipe that it speaks into.
    """

    def __init__(self, errand: ShimRequest, folder: int, pid: int, hears: int) -> None:
        self._errand = errand
        self._folder = folder
        self._pid = pid
        self._hears = hears
        self._log = LogWriter(folder, errand.log_bytes)
        self._status: int | None = None
        self._finished_at = 0.0
        self._deadline = _seconds() + errand.timeout_seconds
        self._kill_at: float | None = None
        self._wish: Any = None
        self._look_at = 0.0
        self._asked: str | None = None  #: why it was told to end, first of all
        self._killed = False
        self._has_to_go = False  #: we were told to end ourselves
        self._wakes = _listen(self._on_signal)
        self._poll = select.poll()
        self._poll.register(hears, select.POLLIN)
        self._poll.register(self._wakes, select.POLLIN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._has_to_go = self._has_to_go or number == signal.SIGTERM
        self._look_at = 0.0

    def see_through(self) -> ShimResult:
        """Return when the command has ended, and all that it left running."""
        while self._status is None:
            self._wait(_LOOK_SECONDS)
            self._reap()
            if self._status is None:
                self._look()
        self._let_finish()
        self._clear_away()
        self._take_log(chunks=4 * _PIPE_BYTES // _CHUNK_BYTES)
        return self._end(self._status)

    # --- what it does -----------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        for file, _ in self._poll.poll(seconds * 1000):
            if file == self._wakes:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakes, 4096)
            else:
                self._take_log(chunks=_CHUNKS)

    def _take_log(self, *, chunks: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(chunks):
                data = os.read(self._hears, _CHUNK_BYTES)
                if not data:  # nobody can say anything any more
                    with contextlib.suppress(KeyError):
                        self._poll.unregister(self._hears)
                    return
                self._log.write(data)

    def _reap(self) -> bool:
        """Take note of what has died; tells whether anything lives."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status, self._finished_at = status, _wall_time()

    # --- what it enforces -------------------------------------------------------------------------

    def _look(self) -> None:
        """See to wishes and times, now and then."""
        now = _seconds()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        wish = _read_wish(self._folder)
        if isinstance(wish, dict) and wish != self._wish:
            self._wish = wish
            self._ask("stopped", _grace_of(wish))
        if os.fstat(self._folder).st_nlink == 0:  # it was removed by hand, and nobody would ever see the job again
            self._ask("removed", self._errand.grace_seconds)
        if self._has_to_go:
            self._ask("watcher ended", self._errand.grace_seconds)
        if now >= self._deadline:
            self._deadline = float("inf")
            self._ask("timed out", self._errand.grace_seconds)
        if self._kill_at is not None and _seconds() >= self._kill_at:
            self._killed = True
            kill_descendants(self._errand.cgroups)

    def _ask(self, why: str, grace_seconds: float) -> None:
        """Tell it to end, once; the kill comes with the shortest grace that was given."""
        kill_at = _seconds() + grace_seconds
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
        if self._asked is None:
            self._asked = why
            send({self._pid}, signal.SIGTERM)  # as engines do, who leave it to the first process to tell others

    def _let_finish(self) -> None:
        """What a command that was told to end has left running is told, too, and has the rest of the grace."""
        if self._asked is None:
            return
        if self._reap():
            send(descendants({os.getpid()}, all_processes()), signal.SIGTERM)
        while self._kill_at is not None and self._reap() and _seconds() < self._kill_at:
            self._wait(_LOOK_SECONDS)
            self._look()

    def _clear_away(self) -> None:
        """End what the command has left running, as a container's engine does."""
        give_up_at = _seconds() + _LAST_KILLS_SECONDS
        while self._reap() and _seconds() < give_up_at:
            kill_descendants(self._errand.cgroups)
            self._wait(0.01)

    # --- how it ended -----------------------------------------------------------------------------

    def _end(self, status: int) -> ShimResult:
        number = os.waitstatus_to_exitcode(status)
        code = number if number >= 0 else _SIGNALLED - number
        left = "processes of it could not be killed; " if self._reap() else ""
        cause, note = self._cause(code)
        return ShimResult(code, self._finished_at, cause, (left + (note or "")) or None)

    def _cause(self, code: int) -> tuple[str | None, str | None]:
        if self._asked == "timed out":
            return "timed-out", None
        if code != 0 and _killed_for_memory(self._errand.oom_file):
            return "out-of-memory", None
        if self._has_to_go and code > _SIGNALLED:
            return "engine-lost", "its watcher was told to end, as when the machine goes down"
        if code == _SIGNALLED + signal.SIGKILL and not self._killed:
            return None, "Upshot did not kill it: a person may have, or the kernel, for want of memory"
        return None, None


def _grace_of(wish: dict[str, Any]) -> float:
    grace = wish.get("grace_seconds")
    return float(grace) if isinstance(grace, int | float) else 0.0


def _killed_for_memory(path: str | None) -> bool:
    if path is None:
        return False
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        counts = dict(line.split() for line in file)
        return int(counts.get("oom_kill", 0)) > 0
    return False


def kill_all(find: Callable[[], set[int]]) -> None:
    """
    Kill all that a question finds, and what they start meanwhile.

    They are stopped first: a process that multiplies is then no faster than we are, where there is
    a limit on their number.

    Args:
        find: Gives the pids that there are now.
    """
    stopped: set[int] = set()
    for _ in range(50):
        found = find()
        if not found - stopped:
            break
        send(found - stopped, signal.SIGSTOP)
        stopped |= found
    send(stopped & find(), signal.SIGKILL)


def kill_descendants(cgroups: list[str]) -> None:
    """Kill all that came of the command, wherever it went: orphans come to us (see subreaper, prctl(2))."""
    kill_all(lambda: descendants({os.getpid()}, all_processes()) | in_cgroups(cgroups))


def _seconds() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _wall_time() -> float:
    return time.time()  # noqa: TID251 - this program runs without Upshot


def _listen(on_signal: Callable[[int, FrameType | None], None]) -> int:
    """Have signals wake us; returns the pipe that says so."""
    wakes, pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, on_signal)
    return wakes


# --- from the worker's errand to the end ----------------------------------------------------------


def _answer(**answer: object) -> None:
    """Tell the worker, if it is there still, and let go of it."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(answer).encode())
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)


def _detach() -> None:
    """Go on as nobody's child, deaf to what the worker's terminal and group are told."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    os.setsid()


def _who_we_are() -> dict[str, Any]:
    process = read_process(os.getpid())
    assert process is not None  # noqa: S101 - it is us
    return {"pid": process.pid, "ticks": process.ticks, "boot": boot_id(), "started_at": _wall_time()}


def _watch(errand: ShimRequest, folder: int) -> ShimResult:
    _control(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        pid, hears = _run(errand)
    except ExecFailed as error:
        _answer(refused=str(error))
        return ShimResult(None, _wall_time(), "refused", str(error))
    _answer(pid=os.getpid())
    try:
        return CommandMonitor(errand, folder, pid, hears).see_through()
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody else can say how the command ended
        kill_descendants(errand.cgroups)
        return ShimResult(None, _wall_time(), "engine-lost", f"its watcher failed: {error!r}")


def _put_away(errand: ShimRequest, folder: int) -> None:
    """Remove what must not outlive the command."""
    with contextlib.suppress(OSError):
        secrets = os.open(SECRETS, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        for name in os.listdir(secrets):
            os.unlink(name, dir_fd=secrets)
    for path in errand.cgroups:
        for _ in range(20):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                break
            except OSError:  # the kernel takes its time to see that nobody is in it
                time.sleep(0.05)


def main() -> int:
    """Take the errand from standard input, and see it through; the exit code is nobody's business."""
    _detach()
    try:
        errand = ShimRequest(**json.loads(sys.stdin.buffer.read()))
    except (ValueError, TypeError):
        return 1  # the worker died before it had said all: nothing was claimed, and the next one says it again
    try:
        folder = os.open(errand.folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        claim = publish(folder, CLAIM, _who_we_are(), lock=True)
    except FileNotFoundError:
        _answer(gone=True)
        return 1
    except OSError as error:
        _answer(failed=f"cannot keep a record there: {error.strerror}")
        return 1
    if claim is None:
        _answer(taken=True)
        return 1
    end = _watch(errand, folder)
    _put_away(errand, folder)
    _tell(end, folder)
    return 0


def _tell(end: ShimResult, folder: int) -> None:
    """Say how it ended; where the disk is full, as soon as there is room again, and the job seems to run until then."""
    give_up_at = _seconds() + _FULL_DISK_SECONDS
    while _seconds() < give_up_at:
        try:
            publish(folder, END, end._asdict())
        except FileNotFoundError:  # the job was removed
            return
        except OSError:
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
