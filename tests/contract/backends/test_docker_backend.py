"""What is Docker's own matter: images and registries, how a container is made, what is left of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.backends.harness import Bench
from tests.contract.backends.registry import Registry
from tests.docker_engines import EngineApi, busybox_image, busybox_tar
from tests.waiting import eventually
from upshot.backends.docker import make
from upshot.backends.protocol import EngineUnavailable, Phase, StartRefused
from upshot.domain.job import FailureKind, ImagePullCredentials, Mount, Pull

pytestmark = pytest.mark.only("docker")

OURS = "upshot.installation"


@pytest.fixture
def api(ground) -> EngineApi:
    """The engine, seen from outside."""
    seen: EngineApi = ground.api
    return seen


# --- images ---------------------------------------------------------------------------------------


@pytest.fixture
def registry(api: EngineApi) -> Iterator[Registry]:
    """A registry that nobody has pulled from."""
    made = Registry(new_tar())
    yield made
    _forget(api, made)


@pytest.fixture
def private_registry(api: EngineApi) -> Iterator[Registry]:
    """A registry that wants a password."""
    made = Registry(new_tar(), password="pass:wörd")
    yield made
    _forget(api, made)


def new_tar() -> bytes:
    """Of an image that the engine has under no other name: it would not ask for what it has."""
    return busybox_tar({"etc/issue": uuid4().bytes})


def _forget(api: EngineApi, registry: Registry) -> None:
    api.remove_image(registry.image)
    api.remove_image(f"127.0.0.1:{registry.port}/{registry.name}@{registry.digest}")


async def test_an_image_is_pulled_when_it_is_missing(bench: Bench, registry: Registry):
    """It is pulled once, told by the registry's digest, and not asked for again."""
    async with registry:
        order, started = await bench.started("echo ran", image=registry.image, pull=Pull.MISSING)
        assert started.image_digest == registry.digest
        assert (await bench.ended(order.name)).exit_code == 0
        assert (await bench.seen(order.name)).image_digest == registry.digest
        registry.asked.clear()

        assert (await bench.run("echo ran", image=registry.image, pull=Pull.MISSING)).exit_code == 0
        assert (await bench.run("echo ran", image=registry.image, pull=Pull.NEVER)).exit_code == 0
        assert registry.asked == []


async def test_an_image_is_asked_for_each_time(bench: Bench, registry: Registry):
    """With `pull: always` the registry is asked though the image is there; one that does not answer is a refusal."""
    async with registry:
        await bench.run("true", image=registry.image, pull=Pull.MISSING)
        registry.asked.clear()
        await bench.run("true", image=registry.image, pull=Pull.ALWAYS)
        assert registry.asked
    with pytest.raises(StartRefused, match="cannot be pulled") as refused:
        await bench.start("true", image=registry.image, pull=Pull.ALWAYS)
    assert refused.value.failure is FailureKind.IMAGE_MISSING


async def test_an_image_by_its_digest_or_without_a_tag(bench: Bench, registry: Registry):
    """A digest is pulled as it is; without a tag, `latest` is, and not all that there are."""
    async with registry:
        name = registry.image.removesuffix(":1")
        for image in (f"{name}@{registry.digest}", name):
            _, started = await bench.started("true", image=image, pull=Pull.ALWAYS)
            assert started.image_digest == registry.digest
    assert not any("tags/list" in path for path in registry.asked)


async def test_a_registry_that_wants_a_password(bench: Bench, private_registry: Registry):
    """It gets the job's credentials; without them, or with others, the job is refused and told why."""
    async with private_registry as registry:
        for auth in (None, ImagePullCredentials("robot", "wrong")):
            with pytest.raises(StartRefused) as refused:
                await bench.start("true", image=registry.image, pull=Pull.MISSING, registry_auth=auth)
            assert refused.value.failure is FailureKind.IMAGE_MISSING
            assert "auth" in str(refused.value)

        auth = ImagePullCredentials("robot", "pass:wörd")
        seen = await bench.run("true", image=registry.image, pull=Pull.MISSING, registry_auth=auth)

        assert seen.exit_code == 0


async def test_a_pull_that_is_broken_off(bench: Bench, registry: Registry):
    """A start that is cancelled while it pulls leaves nothing, and can be begun again."""
    async with registry:
        registry.goes_on.clear()
        order = bench.order("true", image=registry.image, pull=Pull.MISSING)
        starting = asyncio.create_task(bench.backend.start(order))
        await eventually(registry.is_asked_for_blobs)
        starting.cancel()
        await asyncio.wait([starting])
        assert await bench.backend.list_containers(bench.installation) == {}

        registry.goes_on.set()
        await bench.backend.start(order)
        assert (await bench.ended(order.name)).exit_code == 0


@pytest.mark.parametrize(
    "image", ["", "../../info", "UPPER/case", "busybox:1?all=1", "https://ghcr.io/acme/x", "a b", "-v", "x" * 600]
)
async def test_what_is_no_image(bench: Bench, image: str):
    """It is refused with a reason, and the engine is not asked for it."""
    with pytest.raises(StartRefused) as refused:
        await bench.start("true", image=image, pull=Pull.MISSING)

    assert refused.value.failure is FailureKind.REFUSED
    assert "image" in str(refused.value)


async def test_the_command_and_arguments_of_an_image(bench: Bench, api: EngineApi):
    """They run unless a job has its own; one that has its own command gets none of the image's arguments."""
    changes = [
        'ENTRYPOINT ["/bin/echo", "image"]',
        'CMD ["default"]',
        "ENV FROM_IMAGE=yes",
        "USER worker",
        "WORKDIR /mnt",
    ]
    with busybox_image(api, changes=changes) as image:
        said = [
            (await bench.log((await bench.run("", image=image, **asked)).name)).data.decode().strip()
            for asked in (
                {"command": None, "args": None},
                {"command": None, "args": ("own",)},
                {"command": ("/bin/echo", "own"), "args": None},
                {"command": ("/bin/sh", "-c", "echo $FROM_IMAGE $(id -u) $(pwd)"), "args": None},
            )
        ]
        secret = await bench.run("cat $UPSHOT_SECRETS/token; echo", image=image, files={"token": "s3cret"})

        assert said == ["image default", "image own", "own", "yes 1234 /mnt"]
        assert (await bench.log(secret.name)).data == b"s3cret\n"


async def test_what_an_image_has_at_our_place(bench: Bench, api: EngineApi):
    """An image that has something at /upshot itself, a link in place of a folder even, changes nothing."""
    with busybox_image(api) as image:
        poisoned = image.replace(":", "-poisoned:")
        tar = busybox_tar({"upshot/outputs.json": b"theirs", "upshot/output/outputs.json": b"theirs"})
        api.import_image(poisoned, tar)
        try:
            seen = await bench.run("ls $UPSHOT_OUTPUT; ls /upshot", image=poisoned)
            assert (await bench.log(seen.name)).data.split() == [b"event.json", b"input", b"output", b"secrets"]
            assert await bench.outputs(seen.name) is None
        finally:
            await bench.backend.remove(seen.name)
            api.remove_image(poisoned)


# --- how a container is made ----------------------------------------------------------------------


async def test_labels(bench: Bench, api: EngineApi, ground):
    """The author's and the operator's are there; ours cannot be had by an author."""
    backend = make({**ground.options, "labels": {"team": "ml", "cost-centre": "7"}})
    order = bench.order("true", labels={OURS: "theirs", "upshot.job": "x", "team": "mine", "own": "yes"})

    await backend.start(order)
    await backend.close()

    assert api.inspect(order.name)["Config"]["Labels"] == {
        OURS: bench.installation,
        "upshot.job": order.job_id,
        "upshot.container": order.name,
        "team": "ml",
        "cost-centre": "7",
        "own": "yes",
    }


async def test_limits(bench: Bench, api: EngineApi):
    """What a job may use is what the engine holds it to; swap adds nothing to its memory."""
    memory = 64 * 1024**2
    seen = await bench.run("df -k /dev/shm | tail -1", cpus=0.5, memory_bytes=memory, pids=50, shm_bytes=2 * 1024**2)

    host = api.inspect(seen.name)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, memory, 50)
    assert host["MemorySwap"] in (memory, -1)  # -1: what an engine writes whose kernel counts no swap
    assert (await bench.log(seen.name)).data.split()[1] == b"2048"


async def test_nothing_is_given_that_was_not_asked_for(bench: Bench, api: EngineApi):
    """No power, no ports, no restart, no second copy of it, and a first process that reaps."""
    seen = await bench.run("true")

    made = api.inspect(seen.name)
    host = made["HostConfig"]
    assert (host["Privileged"], host["CapAdd"], host["Devices"] or None, host["Binds"]) == (False, None, None, None)
    assert (host["PidMode"], host["IpcMode"], host["AutoRemove"]) == ("", "private", False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["Init"] is True
    assert not host["PortBindings"]
    assert [mount["Destination"] for mount in made["Mounts"]] == ["/upshot"]


async def test_the_log_is_bounded_as_the_operator_says(bench: Bench, ground):
    """An engine keeps no more of a log than that, and at least three quarters of it."""
    small = Bench(ground)
    small.backend = make({**ground.options, "log-size": "1MiB"})
    try:
        name = await small.start(
            "i=0; while [ $i -lt 3000 ]; do echo $i $(head -c 900 /dev/zero | tr '\\0' x); i=$((i+1)); done"
        )
        await small.ended(name)
        assert 700_000 < ground.log_bytes_kept(name) < 1_200_000

        read = await small.log(name, limit_bytes=10_000_000)
        assert read.data.splitlines()[-1].startswith(b"2999 ")
        assert len(read.data) > 600_000
    finally:
        await small.backend.close()
        ground.clean(small.installation)


async def test_mounts(bench: Bench, api: EngineApi, tmp_path: Path):
    """A folder of the machine is read-only unless said otherwise; a named volume outlives the job."""
    volume = f"upshot-test-{os.getpid()}"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("from outside\n")
    mounts = (Mount(str(tmp_path / "in"), "/in"), Mount(volume, "/kept", read_only=False))
    try:
        first = await bench.run(
            "cat /in/file; touch /in/x 2>/dev/null || echo read-only; echo kept > /kept/file", mounts=mounts
        )
        await bench.backend.remove(first.name)
        second = await bench.run("cat /kept/file", mounts=mounts)

        assert (await bench.log(second.name)).data == b"kept\n"
        assert first.exit_code == 0
    finally:
        await bench.backend.remove(second.name)
        api.ask("DELETE", f"/volumes/{volume}")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param({"cpus": 4000.0}, "CPUs", id="more processors than there are"),
        pytest.param({"memory_bytes": 1000}, "memory", id="less memory than a container takes"),
        pytest.param(
            {"mounts": (Mount("/no/such/folder", "/in"),)}, "/no/such/folder", id="a folder that is not there"
        ),
        pytest.param({"user": "nobody-of-that-name"}, "nobody-of-that-name", id="a user that is not there"),
        pytest.param({"workdir": "relative"}, "relative", id="a relative working directory"),
        pytest.param({"gpus": 1}, "GPU", id="a GPU where there is none"),
        pytest.param({"options": {"tolerations": []}}, "tolerations", id="options of another backend"),
    ],
)
async def test_what_the_engine_will_not_make(bench: Bench, api: EngineApi, asked, said):
    """The job is refused in the engine's words, and neither a container nor a volume is left of it."""
    volumes = len(api.volumes(f"{OURS}={bench.installation}"))

    with pytest.raises(StartRefused, match=said) as refused:
        await bench.start("true", **asked)

    assert refused.value.failure is FailureKind.REFUSED
    assert api.containers(f"{OURS}={bench.installation}") == []
    assert len(api.volumes(f"{OURS}={bench.installation}")) == volumes == 0


async def test_its_volume_goes_with_the_container(bench: Bench, api: EngineApi):
    """Nothing of ours is left on the engine when a job is removed."""
    seen = await bench.run("true")
    assert len(api.volumes(f"{OURS}={bench.installation}")) == 1

    await bench.backend.remove(seen.name)

    assert api.volumes(f"{OURS}={bench.installation}") == []


# --- what people do -------------------------------------------------------------------------------


async def test_a_container_that_somebody_pauses(bench: Bench, api: EngineApi):
    """It runs, the reason why it does nothing is told, and it can be stopped."""
    name = await bench.start("echo begun; sleep 600")
    api.ask("POST", f"/containers/{name}/pause")

    seen = await bench.seen(name)
    assert (seen.phase, seen.note) == (Phase.RUNNING, "somebody has paused it")

    await bench.backend.stop(name, grace_seconds=1)
    await bench.ended(name)


async def test_a_container_that_somebody_removes(bench: Bench, api: EngineApi):
    """It is not seen any more, and has said and given nothing more; to stop or remove it is fine."""
    name = await bench.start("echo begun; sleep 600")
    await bench.seen(name)
    api.ask("DELETE", f"/containers/{name}", params={"force": "1", "v": "1"})

    assert await bench.seen(name) is None
    assert (await bench.log(name)).data == b""
    assert await bench.outputs(name) is None
    await bench.backend.stop(name, grace_seconds=1)
    await bench.backend.remove(name)


async def test_an_image_that_is_gone_since(bench: Bench, api: EngineApi):
    """A container whose image was removed is seen all the same."""
    with busybox_image(api) as image:
        name = await bench.start("sleep 600", image=image)
        api.ask("DELETE", f"/images/{image}", params={"force": "1"})

        other = bench.ground.connect()
        seen = (await other.list_containers(bench.installation))[name]
        await other.close()

        assert seen.image_digest.startswith("sha256:")


async def test_somebody_who_is_no_engine(bench: Bench):
    """A web server at the address is told from an engine that is away."""
    async with Registry(busybox_tar()) as other:
        backend = make({"host": f"tcp://127.0.0.1:{other.port}"})
        with pytest.raises(EngineUnavailable, match=r"404|Docker"):
            await backend.list_containers(bench.installation)
        await backend.close()
