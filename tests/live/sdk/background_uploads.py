"""Uploads in the background: the order, files that change meanwhile, errors, and the end of the run."""

from pathlib import Path
from threading import Event

import upshot as wandb
from upshot.client import uploads

may_send = Event()
send_version = uploads.send_version


def send_later(*arguments, **options):
    """Send the files when the program says so."""
    assert may_send.wait(60)
    return send_version(*arguments, **options)


uploads.send_version = send_later
checkpoint = Path("checkpoint.bin")

with wandb.init(project="background") as run:
    logged = []
    for number in range(3):
        checkpoint.write_text(f"epoch {number}")
        artifact = wandb.Artifact("net", "model", metadata={"epoch": number})
        artifact.add_file(checkpoint)
        logged.append(run.log_artifact(artifact, aliases=[f"epoch-{number}"]))
    for attribute in ("version", "aliases", "id"):
        try:
            getattr(logged[0], attribute)
        except wandb.Error as error:
            assert "call wait() first" in str(error)
        else:
            raise AssertionError(f"{attribute} is known before the upload")
    try:
        logged[0].wait(timeout=0)
    except TimeoutError as error:
        assert "net" in str(error)
    else:
        raise AssertionError("wait() did not wait")
    logged[2].metadata["seen"] = True
    may_send.set()
    link = run.link_artifact(logged[2], "model-registry/Net")  # waits for the upload
    assert (link.source_version, logged[2].version) == ("v2", "v2")
    logged[2].save()
    other = wandb.Artifact("other", "model")
    other.add_file(checkpoint, policy="immutable")
    run.log_artifact(other)
    assert run.use_artifact("other:latest").version == "v0"  # waits for what this run logs under the name

api = wandb.Api()
for number in range(3):
    found = api.artifact(f"background/net:epoch-{number}")
    assert (found.version, found.metadata["epoch"]) == (f"v{number}", number)
    assert Path(found.download(), "checkpoint.bin").read_text() == f"epoch {number}"
assert api.artifact("background/net:v2").metadata["seen"] is True

run = wandb.init(project="background")
changed = wandb.Artifact("changed", "model")
checkpoint.write_text("content that the server does not have")
changed.add_file(checkpoint, policy="immutable")
checkpoint.write_text("other")
run.log_artifact(changed)
try:
    run.finish()
except ValueError as error:
    assert "has changed since it was added" in str(error)
else:
    raise AssertionError("finish() did not raise the error of the upload")
assert run.state == "failed"
assert not api.artifact_exists("background/changed")

again = wandb.Artifact("changed", "model")
again.add_file(checkpoint)
wandb.init(project="background").log_artifact(again)  # the end of the program waits for it
