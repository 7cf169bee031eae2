"""`upshot demo`."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from pathlib import Path

import click

from upshot.clock import stopwatch
from upshot.console import Output
from upshot.demo.image import IMAGE, build_image
from upshot.demo.run import run_demo


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Data directory, to inspect later with `upshot up --data DIR`. By default: a temporary one.",
)
@click.option("--image", "only_image", is_flag=True, help="Only build the image of the sample jobs.")
def demo(data: Path | None, *, only_image: bool) -> None:
    """
    Watch models being evaluated and promoted, with real jobs.

    Starts Upshot with its sample automations, and local receivers that stand in for GitHub, Slack and webhooks.
    Then runs a training script three times, which logs its checkpoints and gives the best one the alias
    `candidate`. The first candidate is promoted, the second is worse and is rejected, and the third is promoted. The
    jobs run in containers if this machine's Docker answers, otherwise as processes. The exit code is 0 only if
    everything happened as expected, and every request arrived and was verified.
    """
    output = Output(as_json=False)
    if only_image:
        image = build_image(output.line)
        output.line(f"{IMAGE} is built: {image.id} ({image.source})")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up after SIGTERM as after Ctrl-C
    started = stopwatch()
    failed = run_demo(output, data)
    for failure in failed:
        output.line(output.state("fail"), f"  {failure}")
    if failed:
        sys.exit(1)
    took = f"it took {stopwatch() - started:.1f} s"
    output.line()
    output.line(
        output.state("ok"), f"  everything happened as expected, and every request arrived and was verified; {took}"
    )
    output.line()
    output.line("What to do next:")
    if data:
        option = shlex.join(["--data", str(data)])
        output.line(
            f"  upshot up {option}             continues with the data of this demo; then, in another terminal:"
        )
        output.line(f"  upshot events list {option}")
    output.line("  mkdir my-models && cd my-models && upshot init   writes a first automation of your own")
    output.line("  upshot up                                        runs Upshot there")
    output.line("  docs/sdk.md, A whole example                     explains the scripts that you saw, for your own")
    if shutil.which("upshot") is None:
        activate = Path(sys.prefix) / "bin" / "activate"
        output.line(f"The command `upshot` is not on your path yet: . {activate}")
