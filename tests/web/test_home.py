"""The home page: what needs attention, what is live, and the executions of the last day."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from tests.web.access_api import SERVER_TOKEN, bearer, make_token, with_token
from tests.web.conftest import API, CHURN, Serve, ok_json
from tests.web.jobs_api import JobsApiHarness
from upshot.domain.execution import ExecutionState
from upshot.ids import WorkerId
from upshot.ports.destinations import DestinationReport
from upshot.ports.workers import WorkerRecord
from upshot.web.pages.home import BUCKETS, make_strip, start_of_strip
from upshot.web.pages.rendering import duration, relative_time


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def admin(serve: Serve) -> Iterator[httpx.Client]:
    """Return a client with the server's token, which can also load pages."""
    with serve(token=SERVER_TOKEN) as client:
        client.headers.update(bearer(SERVER_TOKEN))
        yield client


@pytest.fixture
def live(admin: httpx.Client) -> httpx.Client:
    """Return the client, with `model/churn:v0`, which has a protected, a watched and an unwatched alias."""
    artifact = {"name": "churn", "artifact_type": "model", "digest": "sha256:0"}
    ok_json(admin.post(f"{API}/projects/demo/artifacts", json=artifact))
    aliases = ["prod-eu", "production", "scratch"]
    ok_json(admin.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": aliases}))
    ok_json(admin.put(f"{API}/registries/model/protected-aliases", json={"patterns": ["prod-*"]}))
    return admin


def home(client: httpx.Client) -> str:
    """Return the text of the home page, without tags."""
    response = client.get("/")
    assert response.status_code == 200, response.text
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", response.text)))


def section(page: str, start: str, end: str) -> str:
    """Return the text between two headings."""
    return page[page.index(start) : page.index(end, page.index(start))]


def test_an_empty_server_says_what_to_do_next(admin):
    """With commands to copy."""
    page = home(admin)
    assert "Nothing has happened yet" in page
    assert "upshot registry alias set model/fraud:v0 production" in page
    assert "no worker does" in page


def test_what_is_live_has_protected_and_watched_aliases(live):
    """With version, time and actor; never `latest`, and not what nobody watches."""
    rows = section(home(live), "What is live", "Executions, last")
    assert "prod-eu" in rows
    assert "production" in rows
    assert "0 s ago admin" in rows
    assert "latest" not in rows
    assert "scratch" not in rows


def test_what_an_alias_set_off_is_beside_it(live, stores, clock):
    """The automation and the state of its execution."""
    event = ok_json(live.get(f"{API}/events", params={"kind": "alias-added", "limit": 200}))["items"]
    event_id = next(item["id"] for item in event if item["data"]["alias"] == "production")
    JobsApiHarness(live, stores, clock).running(event_id=event_id, automation="promote")
    row = section(live.get("/").text, "production</span>", "</tr>")
    assert 'data-state="waiting">promote</span>' in row


def test_attention_is_needed_for_what_is_broken_or_down(live, stores, clock):
    """A broken file with its line, a destination that is down, and missing workers; each with what to do."""
    report = DestinationReport("https://hooks.example:443", True, "connection refused", 0, 20, clock.now())
    stores.destinations.report("w1", [report], clock.now())
    page = section(home(live), "Needs attention", "What is live")
    assert "No worker runs" in page
    assert "https://hooks.example:443 is down connection refused" in page
    assert re.search(r"broken\.yaml:4 .*unknown action 'slak'", page)

    now = clock.now()
    stores.workers.heartbeat(WorkerRecord(WorkerId("wrk_1"), "gpu-1", 7, now, now, 3, now, 12))
    page = home(live)
    assert "No worker runs" not in page
    assert "gpu-1 12 active, 3 executions in progress" in page


def test_names_and_reasons_are_text(live):
    """Markup in a description or a name shows as text."""
    name = "<script>alert(1)</script>"[1:-1].replace("/", "")
    artifact = {"name": name, "artifact_type": "model", "digest": "sha256:9"}
    ok_json(live.post(f"{API}/projects/demo/artifacts", json=artifact))
    ok_json(
        live.post(
            f"{API}/registries/model/collections/<b>&amp;'\"/versions",
            json={"artifact": f"demo/{name}:v0", "aliases": ["production"]},
        )
    )
    text = live.get("/").text
    assert "<b>&amp;" not in text
    assert "&lt;b&gt;&amp;amp;&#39;&#34;" in text


def test_a_token_for_one_registry_sees_its_aliases_only(live):
    """Nothing of the installation, and nothing of other registries."""
    other = f"{API}/registries/other/collections/c/versions"
    ok_json(live.post(other, json={"artifact": "demo/churn:v0", "aliases": ["production"]}))
    assert "other / c" in home(live)
    with with_token(live, make_token(live, "team", "restricted-viewer", registry="model")) as team:
        page = home(team)
    assert "team · restricted-viewer of model" in page
    assert "production" in page
    for hidden in ("other", "Executions, last", "Workers", "promote", "broken.yaml"):
        assert hidden not in page


def test_the_strip_shows_a_day(clock):
    """Succeeded and waiting are above the line, failed below, and what is not shown is not counted."""
    counted = {
        (0, ExecutionState.SUCCEEDED): 4,
        (BUCKETS - 1, ExecutionState.SUCCEEDED): 2,
        (BUCKETS - 1, ExecutionState.WAITING): 1,
        (BUCKETS - 1, ExecutionState.RUNNING): 1,
        (BUCKETS, ExecutionState.FAILED): 1,
        (3, ExecutionState.SKIPPED): 9,
    }
    strip = make_strip(counted, start_of_strip(clock.now() - timedelta(minutes=1)))
    assert strip.totals == {"succeeded": 6, "waiting": 2, "failed": 1}
    assert (strip.largest, len(strip.bars)) == (4, BUCKETS)
    assert (strip.bars[0].succeeded, strip.bars[-1].succeeded, strip.bars[-1].failed) == (52, 26, 20)
    assert strip.bars[0].title == "12:00: 4 succeeded"
    assert strip.ticks == ["12:00", "16:00", "20:00", "00:00", "04:00", "08:00", "now"]


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (timedelta(seconds=-5), "0 s ago"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=8), "8 min ago"),
        (timedelta(hours=2, minutes=59), "2 h ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=6, hours=23), "6 days ago"),
        (timedelta(days=7), "25 Dec 2025"),
    ],
)
def test_times_are_relative_up_to_a_week(clock, age, shown):
    """Then they are dates, with the year if it is another one."""
    assert relative_time(clock.now() - age, clock.now()) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59.9, "59 s"), (66, "1 min 6 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")]
)
def test_durations_have_two_units_at_most(seconds, shown):
    """Seconds, minutes, hours, days."""
    assert duration(seconds) == shown
