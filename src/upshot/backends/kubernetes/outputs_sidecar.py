"""
Read `outputs.json` from a pod whose command has exited.

The files of a pod cannot be read once its containers have exited, and a container's termination message holds only
4 KB. So a second container with a small image shares the output directory. It is a sidecar: Kubernetes stops it after
the job's own container has exited, in whatever way, and then the sidecar writes the file to its own log.

The job cannot write to that log, and it no longer runs while its file is read, so nobody can swap the file. A link, a
directory, or a file beyond the limit is named instead of read. Between the markers the log contains base64, and the
first marker contains the size of the file.
"""

from __future__ import annotations

import base64
import binascii

from upshot.backends.protocol import OutputUnreadable
from upshot.domain.job import MAX_OUTPUTS_BYTES, OUTPUTS_FILE

SIDECAR = "upshot-outputs"  #: name of the container
# Base64 in lines of 76 characters, and room for the markers, whatever the size in them.
MAX_LOG_BYTES = MAX_OUTPUTS_BYTES * 4 // 3 * 77 // 76 + 4096

_MARKER = "upshot-outputs:"

#: Runs in any POSIX shell with stat, head and base64. It asks for the size first, because counting the bytes of a
#: sparse file could mean reading a terabyte. The signal interrupts `wait`, but would not interrupt `sleep`.
SCRIPT = f"""
file={OUTPUTS_FILE}
finish() {{ echo "{_MARKER} $*"; exit 0; }}
report() {{
  if [ -L "$file" ]; then finish link; fi
  if [ ! -e "$file" ]; then finish none; fi
  if [ -d "$file" ]; then finish other a directory; fi
  if [ -p "$file" ]; then finish other a pipe; fi
  if [ ! -f "$file" ]; then finish other not a regular file; fi
  if [ ! -r "$file" ]; then finish unreadable; fi
  size=$(stat -c %s "$file")
  if [ "$size" -gt {MAX_OUTPUTS_BYTES} ]; then finish large $size; fi
  echo "{_MARKER} begin $size"
  head -c {MAX_OUTPUTS_BYTES} "$file" | base64
  finish end
}}
trap report TERM
while :; do sleep 3600 & wait $!; done
"""


def parse_log(log: bytes, *, limit_bytes: int) -> bytes | None:
    """
    Return the file that the sidecar wrote to its log.

    Args:
        log: The sidecar's whole log.
        limit_bytes: Maximum size of the file.

    Returns:
        The content of the file; None if there is no file.

    Raises:
        OutputUnreadable: It is not a regular file, it is too large, or the sidecar could not finish.
    """
    lines = log.decode("ascii", "replace").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith(_MARKER)), 0)
    match lines[first].split()[1:] if lines else []:
        case ["none"]:
            return None
        case ["large", size]:
            raise _too_large(size, limit_bytes)
        case ["link"]:
            raise OutputUnreadable(f"{OUTPUTS_FILE} is a link, and links are not followed; write a regular file")
        case ["other", *kind]:
            raise OutputUnreadable(f"{OUTPUTS_FILE} is {' '.join(kind)}; write a regular file")
        case ["unreadable"]:
            raise OutputUnreadable(
                f"the container {SIDECAR} may not read {OUTPUTS_FILE}; make the file readable for all users"
            )
        case ["begin", size]:
            if int(size) > limit_bytes:
                raise _too_large(size, limit_bytes)
            try:
                end = lines.index(f"{_MARKER} end")
                content = base64.b64decode("".join(lines[first + 1 : end]), validate=True)
            except (ValueError, binascii.Error) as error:
                raise _incomplete() from error
            if len(content) == int(size):
                return content
    raise _incomplete()


def _too_large(size: str, limit_bytes: int) -> OutputUnreadable:
    return OutputUnreadable(f"{OUTPUTS_FILE} has {size} bytes; the limit is {limit_bytes}")


def _incomplete() -> OutputUnreadable:
    return OutputUnreadable(
        f"{OUTPUTS_FILE} could not be read: the container {SIDECAR} was killed before it had written all of it"
    )
