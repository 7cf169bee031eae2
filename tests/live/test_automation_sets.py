"""Two workers with different checkouts on one database: the older one leaves the events to the newer one."""

import subprocess
import sys

import httpx

from tests.system import forward_automation
from tests.waiting import until

LATER = """\
name: later
on:
  custom:
    name: made
steps:
  - uses: emit
    with: {name: seen}
"""


def checkout(system, name, *texts):
    """Write a folder of automation files, and return the setting that a worker gets."""
    folder = system.folder / name
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
    return {"UPSHOT_AUTOMATIONS": str(folder)}


def loaded(system):
    """Return what each live worker has loaded, by its id."""
    workers = system.api.get("/workers").json()["items"]
    return {worker["id"]: worker["automation_set"] for worker in workers}


def matching(system):
    return {worker_id for worker_id, loaded_set in loaded(system).items() if loaded_set["matches"]}


def answered(system):
    return sorted(execution["automation"] for execution in system.executions(state="succeeded"))


def test_a_worker_with_an_older_checkout_answers_no_events(make_system, receivers, database_url):
    """Every event is answered by both automations. `/workers` and a metric name the worker and the difference."""
    forward = forward_automation(receivers.url)
    system = make_system(database_url=database_url, automations={"0.yaml": forward, "1.yaml": LATER})
    old = checkout(system, "old", forward)
    system.start_web()
    system.start_worker("old", UPSHOT_WORKER_ID="old", **old)  # the first worker: its set has number 1
    until(lambda: matching(system) == {"old"}, "the only worker matches")
    system.start_worker("new", UPSHOT_WORKER_ID="new")
    until(lambda: matching(system) == {"new"}, "the newer set is in force")

    system.emit("made", *({"number": number} for number in range(30)))

    until(lambda: len(answered(system)) == 60, "every event has two answers")
    assert "without later" in loaded(system)["old"]["difference"]
    assert "new" in loaded(system)["old"]["difference"]
    metrics = httpx.get(f"{system.url}/metrics", headers=system.api.headers).text
    (line,) = (
        line for line in metrics.splitlines() if "upshot_worker_matches_events{" in line and 'worker="old"' in line
    )
    assert line.endswith(" 0.0")
    assert "without later" in line
    doctor = subprocess.run(
        [sys.executable, "-m", "upshot", "doctor"],
        check=False,
        env=system.environment | {"UPSHOT_URL": system.url},
        capture_output=True,
        text=True,
    )
    assert "worker automations: old on" in doctor.stdout
    assert "without later" in doctor.stdout


def test_a_rollback_by_restarts_and_the_death_of_the_newest_worker(make_system, receivers, database_url):
    """Events wait while the newest set may come back, and are answered by the older set after one lease."""
    forward = forward_automation(receivers.url)
    system = make_system(database_url=database_url, automations={"0.yaml": forward})
    new = checkout(system, "new", forward, LATER)
    system.start_web()
    system.start_worker("old", UPSHOT_WORKER_ID="old")
    system.start_worker("new", UPSHOT_WORKER_ID="new", **new)
    until(lambda: matching(system) == {"new"}, "the newer set is in force")
    system.kill("new")

    (event_id,) = system.emit("made", {"number": 1})

    until(lambda: "old" in matching(system), "the older set takes over")
    until(lambda: answered(system) == ["forward"], "the event that waited is answered")
    assert system.api.get(f"/events/{event_id}").json()["matched_at"]

    system.start_worker("new", UPSHOT_WORKER_ID="new-again", **new)
    until(lambda: matching(system) == {"new-again"}, "the newest set is back")
    checkout(system, "new", forward)  # a rollback of files under a running worker
    until(lambda: matching(system) == {"new-again", "old"}, "both have the older files")


def test_a_set_that_was_never_sound_gives_way_to_a_sound_one(make_system, receivers, database_url):
    """A faulty set is in force while nobody has another one. It has no number, so a sound set takes over at once."""
    forward = forward_automation(receivers.url)
    system = make_system(database_url=database_url, automations={"0.yaml": forward})
    system.start_web()
    system.start_worker("sound", UPSHOT_WORKER_ID="sound")
    until(lambda: matching(system) == {"sound"}, "the only worker matches")
    system.kill("sound")
    faulty = checkout(system, "faulty", LATER, "name: broken\n")
    system.start_worker("faulty", UPSHOT_WORKER_ID="faulty", **faulty)
    until(lambda: "faulty" in matching(system), "nobody has another set")
    assert loaded(system)["faulty"]["number"] is None

    system.start_worker("sound", UPSHOT_WORKER_ID="sound-again")

    until(lambda: matching(system) == {"sound-again"}, "the sound set is in force again")
    assert loaded(system)["sound-again"]["number"] == 1
    system.emit("made", {"number": 1})
    until(lambda: answered(system) == ["forward"], "the sound set answers")


def test_events_wait_for_a_folder(make_system, receivers, database_url):
    """While the folder of a worker is missing, events wait and are not matched against an empty set."""
    system = make_system(database_url=database_url, automations={"0.yaml": forward_automation(receivers.url)})
    system.start_web()
    folder = system.folder / "mounted later"
    system.start_worker("worker", UPSHOT_WORKER_ID="worker", UPSHOT_AUTOMATIONS=str(folder))
    (event_id,) = system.emit("made", {"number": 1})
    until(lambda: "folder cannot be read" in (loaded(system)["worker"]["difference"] or ""), "the worker says so")
    assert system.api.get(f"/events/{event_id}").json()["matched_at"] is None

    system.automations.rename(folder)

    until(lambda: answered(system) == ["forward"], "the event is answered")
