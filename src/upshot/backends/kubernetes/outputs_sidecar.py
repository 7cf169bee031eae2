"""
How `outputs.json` comes out of a pod whose command has ended.

A pod's files are out of reach once its containers have ended, and the message that a container may
leave behind holds 4 KB. So a second container of a small image shares the output folder: a sidecar,
which Kubernetes tells to end after the job's own container has ended, however that was, and which
then says the file on its own log. The job cannot write into that log, and no longer runs while its
file is read: nothing can be swapped under the reader. A link, a folder or a file beyond the limit is
named, not read; what comes between the marks is base64, with the file's size at its head.
"""

from __future__ import annotations

import base64
import binascii

from upshot.backends.protocol import OutputUnreadable
from upshot.domain.job import MAX_OUTPUTS_BYTES, OUTPUTS_FILE

COLLECTOR = "upshot-outputs"  #: the container's name
# Of base64 in lines of 76, with the marks, whatever the file's size.
MAX_SAID_BYTES = MAX_OUTPUTS_BYTES * 4 // 3 * 77 // 76 + 4096

_MARK = "upshot-outputs:"

#: For any POSIX shell with stat, head and base64. The size is asked for, as some would read a terabyte to count it;
#: `wait` ends at once when the signal comes, as `sleep` would not.
SCRIPT = f"""
file={OUTPUTS_FILE}
say() {{ echo "{_MARK} $*"; exit 0; }}
tell() {{
  if [ -L "$file" ]; then say link; fi
  if [ ! -e "$file" ]; then say none; fi
  if [ -d "$file" ]; then say other a folder; fi
  if [ -p "$file" ]; then say other a pipe; fi
  if [ ! -f "$file" ]; then say other no plain file; fi
  if [ ! -r "$file" ]; then say unreadable; fi
  size=$(stat -c %s "$file")
  if [ "$size" -gt {MAX_OUTPUTS_BYTES} ]; then say large $size; fi
  echo "{_MARK} begin $size"
  head -c {MAX_OUTPUTS_BYTES} "$file" | base64
  say end
}}
trap tell TERM
while :; do sleep 3600 & wait $!; done
"""


def read_said(said: bytes, *, limit_bytes: int) -> bytes | None:
    """
    Read what the sidecar has said.

    Args:
        said: Its whole log.
        limit_bytes: Of the file.

    Returns:
        The file's content; None when there is none.

    Raises:
        OutputUnreadable: It is no plain file, too large, or the sidecar could not end its sentence.
    """
    lines = said.decode("ascii", "replace").splitlines()
    first, words = _first_mark(lines)
    match words:
        case ["none"]:
            return None
        case ["large", size]:
            raise OutputUnreadable(f"{OUTPUTS_FILE} has {size} bytes; at most {limit_bytes} are read")
        case ["link"]:
            raise OutputUnreadable(f"{OUTPUTS_FILE} is a link, and links are not followed; write a plain file")
        case ["other", *kind]:
            raise OutputUnreadable(f"{OUTPUTS_FILE} is {' '.join(kind)}; write a plain file")
        case ["unreadable"]:
            raise OutputUnreadable(f"{OUTPUTS_FILE} may not be read by the container {COLLECTOR}; let others read it")
        case ["begin", size]:
            if int(size) > limit_bytes:
                raise OutputUnreadable(f"{OUTPUTS_FILE} has {size} bytes; at most {limit_bytes} are read")
            return _content(lines[first + 1 :], int(size))
    raise _cut_off()


def _first_mark(lines: list[str]) -> tuple[int, list[str]]:
    for number, line in enumerate(lines):
        if line.startswith(_MARK):
            return number, line.split()[1:]
    return 0, []


def _content(lines: list[str], size: int) -> bytes:
    try:
        end = lines.index(f"{_MARK} end")
        content = base64.b64decode("".join(lines[:end]), validate=True)
    except (ValueError, binascii.Error) as error:
        raise _cut_off() from error
    if len(content) != size:
        raise _cut_off()
    return content


def _cut_off() -> OutputUnreadable:
    return OutputUnreadable(
        f"{OUTPUTS_FILE} could not be read: the container {COLLECTOR} was killed before it had told of it"
    )
