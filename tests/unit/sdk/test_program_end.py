import subprocess
import sys

import pytest

PROGRAM = """\
import signal, threading, time
signal.signal(signal.SIGINT, signal.{handler})
from upshot.sdk.program_end import interrupt_program
threading.Timer(0.1, interrupt_program).start()
try:
    while True:
        time.sleep(0.01)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("handler", ["default_int_handler", "SIG_IGN", "SIG_DFL"])
def test_a_request_to_stop_interrupts_the_program(handler):
    """Also one that ignores Ctrl-C, as those that a shell script starts in the background."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(handler=handler)], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.stdout == "interrupted\n", done.stderr
