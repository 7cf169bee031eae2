"""What only the Docker backend does: images and image registries, the container's configuration, and cleaning up."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.backends.docker import DockerEngine
from tests.contract.backends.harness import BackendHarness
from tests.docker_engines import EngineApi, busybox_image, busybox_tar
from tests.fakes.image_registry import FakeImageRegistry
from tests.waiting import eventually
from upshot.backends.docker import make
from upshot.backends.docker.backend import DockerBackend
from upshot.backends.protocol import INSTALLATION_LABEL, EngineUnavailable, JobInput, Phase, StartRefused
from upshot.domain.job import FailureKind, ImagePullCredentials, Mount, Pull

pytestmark = pytest.mark.only("docker")


@pytest.fixture
def backend(harness: BackendHarness) -> DockerBackend:
    """Return the harness's backend."""
    assert isinstance(harness.backend, DockerBackend)
    return harness.backend


@pytest.fixture
def api(engine: DockerEngine) -> EngineApi:
    """Return a client of the engine that is independent of the backend."""
    return engine.api


# --- input ----------------------------------------------------------------------------------------


@pytest.fixture
def unseen(tmp_path: Path) -> Iterator[Path]:
    """Yield a path at which this process sees a directory with files, and the engine does not."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "model.bin").write_bytes(b"x" * 3_000_000)
    (tree / "empty").touch()
    opened = os.open(tree, os.O_RDONLY)
    number = fcntl.fcntl(opened, fcntl.F_DUPFD, 900)
    yield Path(f"/proc/self/fd/{number}")
    os.close(opened)
    os.close(number)


async def test_input_is_mounted_read_only(harness: BackendHarness, api: EngineApi, tmp_path: Path):
    """An engine that sees the directory gets a mount of it, which even root in the container cannot change."""
    (tmp_path / "model.bin").write_text("weights")
    files = JobInput("project/model:v0", 1, 7, tmp_path, transfer_limit=1)

    status = await harness.run("cd $UPSHOT_INPUT; rm -f model.bin; echo x > new", input_=files)

    mounts = {mount["Destination"]: mount for mount in api.inspect(status.name)["Mounts"]}
    assert (mounts["/upshot/input"]["Source"], mounts["/upshot/input"]["RW"]) == (str(tmp_path), False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


async def test_input_is_uploaded_to_another_machine(harness: BackendHarness, api: EngineApi, unseen: Path):
    """An engine that does not see the directory gets the files, even with a read-only root file system."""
    files = JobInput("project/model:v0", 2, 3_000_000, unseen, transfer_limit=3_000_000)
    script = "cd $UPSHOT_INPUT; cat sub/model.bin | wc -c; ls -A; touch sub/new"

    status = await harness.run(script, input_=files, user="1234", read_only=True)

    log = (await harness.read_log(status.name)).data.decode()
    assert log.startswith("3000000\nempty\nsub\n")
    assert "Permission denied" in log


async def test_input_that_is_too_large_to_be_uploaded(harness: BackendHarness, unseen: Path):
    """The refusal names the limit, and no container is left."""
    files = JobInput("project/model:v0", 2, 3_000_000, unseen, transfer_limit=2_999_999)

    with pytest.raises(
        StartRefused, match="has 3,000,000 bytes, and the queue's `input-size` allows 2,999,999"
    ) as caught:
        await harness.start("true", input_=files)

    assert caught.value.failure is FailureKind.REFUSED
    assert not await harness.backend.list_containers(harness.installation_id)


# --- images ---------------------------------------------------------------------------------------


@asynccontextmanager
async def image_registry(api: EngineApi, *, password: str | None = None) -> AsyncIterator[FakeImageRegistry]:
    """Serve an image with unique content, since an engine does not request layers that it already has."""
    tar = busybox_tar({"etc/issue": uuid4().bytes})
    async with FakeImageRegistry(tar, password=password) as registry:
        try:
            yield registry
        finally:
            api.remove_image(registry.image)
            api.remove_image(f"127.0.0.1:{registry.port}/{registry.name}@{registry.digest}")


async def test_missing_image_is_pulled(harness: BackendHarness, api: EngineApi):
    """A missing image is pulled once. The digest in the status is the image registry's."""
    async with image_registry(api) as registry:
        request = harness.request("echo ran", image=registry.image, pull=Pull.MISSING)
        started = await harness.backend.start(request)
        assert started.image_digest == registry.digest
        assert (await harness.wait_for_exit(request.name)).exit_code == 0
        assert (await harness.status(request.name)).image_digest == registry.digest
        registry.requests.clear()

        assert (await harness.run("echo ran", image=registry.image, pull=Pull.MISSING)).exit_code == 0
        assert (await harness.run("echo ran", image=registry.image, pull=Pull.NEVER)).exit_code == 0
        assert registry.requests == []


async def test_pull_always(harness: BackendHarness, api: EngineApi):
    """With `pull: always` the image is pulled even if the engine has it. Without an answer, the job is refused."""
    async with image_registry(api) as registry:
        await harness.run("true", image=registry.image, pull=Pull.MISSING)
        registry.requests.clear()
        await harness.run("true", image=registry.image, pull=Pull.ALWAYS)
        assert registry.requests
    with pytest.raises(StartRefused, match="cannot be pulled") as refused:
        await harness.start("true", image=registry.image, pull=Pull.ALWAYS)
    assert refused.value.failure is FailureKind.IMAGE_MISSING


async def test_image_with_a_digest_and_without_a_tag(harness: BackendHarness, api: EngineApi):
    """An image can be pulled by its digest. Without a tag, only `latest` is pulled."""
    async with image_registry(api) as registry:
        name = registry.image.removesuffix(":1")
        for image in (f"{name}@{registry.digest}", name):
            started = await harness.backend.start(harness.request("true", image=image, pull=Pull.ALWAYS))
            assert started.image_digest == registry.digest
    assert not any("tags/list" in path for path in registry.requests)


async def test_image_registry_with_a_password(harness: BackendHarness, api: EngineApi):
    """A pull uses the job's credentials. Without valid credentials the job is refused with the reason."""
    async with image_registry(api, password="pass:wörd") as registry:
        for credentials in (None, ImagePullCredentials("robot", "wrong")):
            with pytest.raises(StartRefused) as refused:
                await harness.start("true", image=registry.image, pull=Pull.MISSING, registry_auth=credentials)
            assert refused.value.failure is FailureKind.IMAGE_MISSING
            assert "auth" in str(refused.value)

        credentials = ImagePullCredentials("robot", "pass:wörd")
        status = await harness.run("true", image=registry.image, pull=Pull.MISSING, registry_auth=credentials)

        assert status.exit_code == 0


async def test_start_cancelled_during_a_pull(harness: BackendHarness, api: EngineApi):
    """A start that is cancelled during a pull leaves nothing behind, and the next start works."""
    async with image_registry(api) as registry:
        registry.serves_blobs.clear()
        request = harness.request("true", image=registry.image, pull=Pull.MISSING)
        starting = asyncio.create_task(harness.backend.start(request))
        await eventually(registry.has_blob_request)
        starting.cancel()
        await asyncio.wait([starting])
        assert await harness.backend.list_containers(harness.installation_id) == {}

        registry.serves_blobs.set()
        await harness.backend.start(request)
        assert (await harness.wait_for_exit(request.name)).exit_code == 0


@pytest.mark.parametrize(
    "image", ["", "../../info", "UPPER/case", "busybox:1?all=1", "https://ghcr.io/acme/x", "a b", "-v", "x" * 600]
)
async def test_invalid_image_name(harness: BackendHarness, image: str):
    """A job with an invalid image name is refused with the reason."""
    with pytest.raises(StartRefused) as refused:
        await harness.start("true", image=image, pull=Pull.MISSING)

    assert refused.value.failure is FailureKind.REFUSED
    assert "image" in str(refused.value)


async def test_command_and_arguments_of_an_image(harness: BackendHarness, api: EngineApi):
    """The image's entry point and arguments run unless the job has its own. A job's command replaces both."""
    changes = [
        'ENTRYPOINT ["/bin/echo", "image"]',
        'CMD ["default"]',
        "ENV FROM_IMAGE=yes",
        "USER worker",
        "WORKDIR /mnt",
    ]
    with busybox_image(api, changes=changes) as image:
        outputs = [
            (await harness.read_log((await harness.run("", image=image, **spec)).name)).data.decode().strip()
            for spec in (
                {"command": None, "args": None},
                {"command": None, "args": ("own",)},
                {"command": ("/bin/echo", "own"), "args": None},
                {"command": ("/bin/sh", "-c", "echo $FROM_IMAGE $(id -u) $(pwd)"), "args": None},
            )
        ]
        with_secret = await harness.run(
            "cat $UPSHOT_SECRETS/token; echo", image=image, secret_files={"token": "s3cret"}
        )

        assert outputs == ["image default", "image own", "own", "yes 1234 /mnt"]
        assert (await harness.read_log(with_secret.name)).data == b"s3cret\n"


async def test_image_with_its_own_upshot_directory(harness: BackendHarness, api: EngineApi):
    """Files that an image has below /upshot are not visible to the job, and are not read as its outputs."""
    with busybox_image(api) as image:
        modified = image.replace(":", "-modified:")
        tar = busybox_tar({"upshot/outputs.json": b"theirs", "upshot/output/outputs.json": b"theirs"})
        api.import_image(modified, tar)
        try:
            status = await harness.run("ls $UPSHOT_OUTPUT; ls /upshot", image=modified)
            files = (await harness.read_log(status.name)).data.split()
            assert files == [b"event.json", b"input", b"output", b"secrets"]
            assert await harness.read_outputs(status.name) is None
        finally:
            await harness.backend.remove(status.name)
            api.remove_image(modified)


# --- configuration of the container ---------------------------------------------------------------


async def test_labels(harness: BackendHarness, engine: DockerEngine, api: EngineApi):
    """A container has the author's and the operator's labels. An author cannot replace Upshot's own labels."""
    backend = make({**engine.options, "labels": {"team": "ml", "cost-centre": "7"}})
    request = harness.request(
        "true", labels={INSTALLATION_LABEL: "theirs", "upshot.job": "x", "team": "mine", "own": "yes"}
    )

    await backend.start(request)
    await backend.close()

    assert api.inspect(request.name)["Config"]["Labels"] == {
        INSTALLATION_LABEL: harness.installation_id,
        "upshot.job": request.job_id,
        "upshot.container": request.name,
        "team": "ml",
        "cost-centre": "7",
        "own": "yes",
    }


async def test_limits(harness: BackendHarness, api: EngineApi):
    """The engine enforces a job's limits, and swap does not extend its memory."""
    memory = 64 * 1024**2
    status = await harness.run(
        "df -k /dev/shm | tail -1", cpus=0.5, memory_bytes=memory, pids=50, shm_bytes=2 * 1024**2
    )

    host = api.inspect(status.name)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, memory, 50)
    assert host["MemorySwap"] in (memory, -1)  # -1 on a kernel without swap accounting
    assert (await harness.read_log(status.name)).data.split()[1] == b"2048"


async def test_defaults_are_restrictive(harness: BackendHarness, api: EngineApi):
    """By default a container has no privileges, ports or restarts, and it has an init process."""
    status = await harness.run("true")

    container = api.inspect(status.name)
    host = container["HostConfig"]
    assert (host["Privileged"], host["CapAdd"], host["Devices"] or None, host["Binds"]) == (False, None, None, None)
    assert host["CapDrop"] == ["ALL"]
    assert (host["PidMode"], host["IpcMode"], host["AutoRemove"]) == ("", "private", False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["Init"] is True
    assert not host["PortBindings"]
    assert [mount["Destination"] for mount in container["Mounts"]] == ["/upshot"]


async def test_capabilities(harness: BackendHarness, api: EngineApi):
    """Root in the container can do only what the job lists. It still writes its outputs and reads its secrets."""
    script = (
        "grep CapEff /proc/self/status; touch /tmp/x; chown 1000 /tmp/x && echo changed; "
        "cat $UPSHOT_SECRETS/token; echo '{}' > $UPSHOT_OUTPUT/outputs.json"
    )
    with_none = await harness.run(script, secret_files={"token": "s3cret"})
    with_one = await harness.run(script, secret_files={"token": "s3cret"}, capabilities=("CHOWN",))

    none_log, one_log = [(await harness.read_log(status.name)).data for status in (with_none, with_one)]
    assert b"CapEff:\t0000000000000000\n" in none_log
    assert b"changed" not in none_log
    assert b"s3cret" in none_log
    assert await harness.read_outputs(with_none.name) == b"{}\n"
    assert b"CapEff:\t0000000000000001\n" in one_log
    assert b"changed" in one_log


async def test_log_size(engine: DockerEngine):
    """The engine keeps no more of a log than the operator's `log-size`, and at least three quarters of that."""
    async with BackendHarness(engine) as small:
        await small.backend.close()
        small.backend = make({**engine.options, "log-size": "1MiB"})
        name = await small.start(
            "i=0; while [ $i -lt 3000 ]; do echo $i $(head -c 900 /dev/zero | tr '\\0' x); i=$((i+1)); done"
        )
        await small.wait_for_exit(name)
        assert 700_000 < engine.stored_log_bytes(name) < 1_200_000

        read = await small.read_log(name, limit_bytes=10_000_000)
        assert read.data.splitlines()[-1].startswith(b"2999 ")
        assert len(read.data) > 600_000


async def test_mounts(harness: BackendHarness, api: EngineApi, tmp_path: Path):
    """A mounted directory is read-only by default. A named volume is kept after its job."""
    volume = f"upshot-test-{os.getpid()}"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("from outside\n")
    mounts = (Mount(str(tmp_path / "in"), "/in"), Mount(volume, "/kept", read_only=False))
    try:
        first = await harness.run(
            "cat /in/file; touch /in/x 2>/dev/null || echo read-only; echo kept > /kept/file", mounts=mounts
        )
        await harness.backend.remove(first.name)
        second = await harness.run("cat /kept/file", mounts=mounts)

        assert (await harness.read_log(second.name)).data == b"kept\n"
        assert first.exit_code == 0
    finally:
        await harness.backend.remove(second.name)
        api.request("DELETE", f"/volumes/{volume}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({"cpus": 4000.0}, "CPUs", id="more processors than the machine has"),
        pytest.param({"memory_bytes": 1000}, "memory", id="less memory than a container needs"),
        pytest.param({"mounts": (Mount("/no/such/folder", "/in"),)}, "/no/such/folder", id="missing directory"),
        pytest.param({"user": "nobody-of-that-name"}, "nobody-of-that-name", id="unknown user"),
        pytest.param({"workdir": "relative"}, "relative", id="relative working directory"),
        pytest.param({"gpus": 1}, "GPU", id="a GPU on a machine without one"),
        pytest.param({"kubernetes": {"tolerations": []}}, "kubernetes", id="options of another backend"),
    ],
)
async def test_rejected_container(harness: BackendHarness, api: EngineApi, spec, message):
    """If the engine rejects a container, the job is refused with its message, and no container or volume is left."""
    with pytest.raises(StartRefused, match=message) as refused:
        await harness.start("true", **spec)

    assert refused.value.failure is FailureKind.REFUSED
    assert api.containers(f"{INSTALLATION_LABEL}={harness.installation_id}") == []
    assert api.volumes(f"{INSTALLATION_LABEL}={harness.installation_id}") == []


async def test_volume_is_removed_with_its_container(harness: BackendHarness, api: EngineApi):
    """Removing a job also removes its volume."""
    status = await harness.run("true")
    assert len(api.volumes(f"{INSTALLATION_LABEL}={harness.installation_id}")) == 1

    await harness.backend.remove(status.name)

    assert api.volumes(f"{INSTALLATION_LABEL}={harness.installation_id}") == []


# --- changes from outside -------------------------------------------------------------------------


async def test_paused_container(harness: BackendHarness, api: EngineApi):
    """A container that someone has paused counts as running, its note says so, and it can be stopped."""
    name = await harness.start("echo started; sleep 600")
    api.request("POST", f"/containers/{name}/pause")

    status = await harness.status(name)
    assert (status.phase, status.note) == (Phase.RUNNING, "someone paused the container")

    await harness.backend.stop(name, grace_seconds=1)
    await harness.wait_for_exit(name)


async def test_container_removed_from_outside(harness: BackendHarness, api: EngineApi):
    """A container that someone has removed has no status, log or outputs. Stopping and removing it is no error."""
    name = await harness.start("echo started; sleep 600")
    await harness.status(name)
    api.request("DELETE", f"/containers/{name}", params={"force": "1", "v": "1"})

    assert await harness.status(name) is None
    assert (await harness.read_log(name)).data == b""
    assert await harness.read_outputs(name) is None
    await harness.backend.stop(name, grace_seconds=1)
    await harness.backend.remove(name)


async def test_image_removed_from_outside(harness: BackendHarness, api: EngineApi):
    """A container whose image has been removed still has a status."""
    with busybox_image(api) as image:
        name = await harness.start("sleep 600", image=image)
        api.request("DELETE", f"/images/{image}", params={"force": "1"})

        other = harness.engine.connect()
        status = (await other.list_containers(harness.installation_id))[name]
        await other.close()

        assert status.image_digest.startswith("sha256:")


async def test_web_server_in_place_of_an_engine(harness: BackendHarness):
    """If a web server answers at the address, the error says that it is not a Docker engine."""
    async with FakeImageRegistry(busybox_tar()) as server:
        backend = make({"host": f"tcp://127.0.0.1:{server.port}"})
        with pytest.raises(EngineUnavailable, match="does not answer like a Docker engine: 404"):
            await backend.list_containers(harness.installation_id)
        await backend.close()


async def test_out_of_memory_event_without_the_state(
    harness: BackendHarness, backend: DockerBackend, monkeypatch: pytest.MonkeyPatch
):
    """If the engine's state does not name memory as the reason, its out-of-memory event decides."""
    name = await harness.start("sleep 0.2; tail /dev/zero", memory_bytes=32 * 1024**2)
    failed = await harness.start("sleep 0.2; exit 3", memory_bytes=32 * 1024**2)
    request_json = backend._client.request_json

    async def without_oom_killed(path, *args, **kwargs):
        response = await request_json(path, *args, **kwargs)
        if path.startswith("containers/") and isinstance(response, dict) and "State" in response:
            response["State"]["OOMKilled"] = False
        return response

    monkeypatch.setattr(backend._client, "request_json", without_oom_killed)

    assert (await harness.wait_for_exit(name)).failure is FailureKind.OUT_OF_MEMORY
    assert (await harness.wait_for_exit(failed)).failure is None
