import json
import threading

import pytest

from tests.waiting import until
from upshot.client.addresses import ApiError
from upshot.errors import Unavailable
from upshot.sdk import sender as sender_module
from upshot.sdk.journal import FILE_NAME, Journal, Record, read_journal
from upshot.sdk.sender import Sender
from upshot.sdk.steps import Steps


class Server:
    """What a server received, and how it answers."""

    def __init__(self):
        self.received = []
        self.instead = []
        self.is_away = False
        self.stop = False
        self.rejections = {}  # the error for a request with this sequence

    def send(self, record):
        if self.is_away:
            raise Unavailable("no Upshot answers")
        body = json.loads(record.body)
        if error := self.rejections.get(body.get("sequence")):
            raise error
        self.received.append((record.kind, body))
        return {"stop": self.stop}

    def send_instead(self, record):
        self.instead.append(json.loads(record.body)["sequence"])

    def send_json(self, method, path, text):
        if self.is_away:
            raise Unavailable("no Upshot answers")
        return {"stop": self.stop}

    def forget_files(self, record):
        pass

    def values(self, key):
        return [row["values"][key] for kind, body in self.received if kind == "log" for row in body.get("rows", ())]

    def sequences(self):
        return [body["sequence"] for kind, body in self.received if kind == "log"]


class Sending:
    """A sender with its server."""

    def __init__(self, folder, server):
        self.server = server
        self.stops: list[int] = []
        self.journal = Journal(folder / "run", {})
        self.sender = Sender(
            run_path="/projects/p/runs/r",
            session="s1",
            journal=self.journal,
            on_stop=lambda: self.stops.append(1),
            on_heartbeat=lambda: None,
        )
        self.steps = Steps(add_file=lambda path, content: None, on_full=self.sender.wake)
        self.sender.start(self.steps)

    def finish(self, patience=60):
        return self.sender.finish(Record("finish", "POST", "/finish", "{}"), patience_seconds=patience)


@pytest.fixture
def sending(tmp_path, monkeypatch):
    server = Server()
    monkeypatch.setattr(sender_module, "Transport", lambda folder: server)
    monkeypatch.setattr(sender_module, "new_client", lambda: server)
    monkeypatch.setattr(sender_module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(sender_module, "_LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(sender_module, "_COLLECT_SECONDS", 0.02)
    monkeypatch.setattr(sender_module, "_HEARTBEAT_SECONDS", 0.05)
    sending = Sending(tmp_path, server)
    yield sending
    sending.sender._gave_up.set()
    sending.sender._ended.set()
    for thread in sending.sender._threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in sending.sender._threads)


def test_everything_arrives_in_order(sending):
    """What is logged arrives in the background, numbered, and the end is last."""
    for number in range(20_000):
        sending.steps.log({"a": number})
    until(lambda: sending.server.received, "something has arrived before the end")

    assert sending.finish()
    assert sending.server.values("a") == list(range(20_000))
    assert sending.server.sequences() == list(range(len(sending.server.sequences())))
    assert sending.server.received[-1][0] == "finish"
    assert not sending.journal.folder.exists()


def test_a_server_that_is_away(sending, monkeypatch, capsys):
    """While no server answers the program goes on; what it logs is kept in the folder, and all of it arrives later."""
    monkeypatch.setattr("upshot.sdk.journal._WAIT_SECONDS", 0.05)
    sending.steps.log({"a": 0})
    until(lambda: sending.server.values("a") == [0], "the first value has arrived")
    sending.server.is_away = True
    for number in range(1, 3_000):
        sending.steps.log({"a": number})
    until((sending.journal.folder / FILE_NAME).exists, "the journal is in the folder")
    sending.steps.log({"a": 3_000})
    sending.server.is_away = False

    assert sending.finish()
    assert sending.server.values("a") == list(range(3_001))
    assert sending.server.sequences() == list(range(len(sending.server.sequences())))
    assert not sending.journal.folder.exists()
    notes = capsys.readouterr().err
    assert notes.count("The run goes on") == 1
    assert "answers again" in notes


def test_a_server_that_stays_away(sending):
    """If no server answers at the end, everything that is missing stays in the folder, in order."""
    sending.server.is_away = True
    sending.steps.log({"a": 1})
    sending.steps.log({"a": 2})

    assert not sending.finish(patience=0.1)
    records = list(read_journal(sending.journal.folder))
    assert [record.kind for record in records][-1] == "finish"
    rows = [row for record in records[:-1] for row in json.loads(record.body).get("rows", ())]
    assert [row["values"]["a"] for row in rows] == [1, 2]


def test_an_error_of_the_server_is_temporary(sending):
    """After an error of the server, or too many requests, the same request is sent again."""
    sending.server.rejections[0] = ApiError(503, "the database does not answer")
    sending.steps.log({"a": 1})
    until(lambda: sending.sender._failing_since is not None, "the request was rejected")
    sending.server.rejections[0] = ApiError(429, "slower")
    sending.server.rejections.clear()

    assert sending.finish()
    assert sending.server.values("a") == [1]


def test_a_request_that_is_rejected(sending, capsys):
    """What the server rejects for good is left out with a note, and what follows arrives."""
    sending.server.rejections[0] = ApiError(422, "rows.0.values.a: is not allowed")
    sending.steps.log({"a": 1})
    until(lambda: sending.server.instead == [0], "the request was replaced")
    sending.steps.log({"a": 2})

    assert sending.finish()
    assert sending.server.values("a") == [2]
    assert "rows.0.values.a: is not allowed" in capsys.readouterr().err


def test_a_request_to_stop(sending):
    """A request to stop is noticed once, by the next answer."""
    sending.server.stop = True
    sending.steps.log({"a": 1})

    until(lambda: sending.stops, "the request was noticed")
    sending.steps.log({"a": 2})
    assert sending.finish()
    assert sending.stops == [1]


def test_records_of_several_threads(sending):
    """Changes and values of several threads arrive once each."""

    def work(name):
        for number in range(200):
            sending.steps.log({name: number})
            if number % 50 == 0:
                sending.sender.add(Record("change", "PUT", "/run", json.dumps({"name": name})))

    threads = [threading.Thread(target=work, args=(f"key-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sending.finish()
    rows = [row for kind, body in sending.server.received if kind == "log" for row in body.get("rows", ())]
    assert len(rows) == 800
    assert sorted(row["step"] for row in rows) == list(range(800))
    assert len([kind for kind, _ in sending.server.received if kind == "change"]) == 16
