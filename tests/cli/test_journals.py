"""`agentstore journal`: what it says of journals that live, died, were damaged, or hold what a backend refused."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from agentstore import Message, db
from agentstore.cli.app import app
from agentstore.protocol import Append, SetItems
from agentstore.queue.journal import Folder, Record, encode, journal_dir
from agentstore.url import StoreURL

URL = StoreURL.parse("postgresql://ann:hunter2@db.example/talks")
HOSTILE = "hello \x1b[2J [bold]"
APPEND = Append("s", (Message("user", HOSTILE), Message("assistant", [{"type": "text", "text": "hi"}])), user_id="ann")
SET = SetItems("n", {"k": 1, "b": b"\xff"})


class Rot13:
    def seal(self, data, aad):
        return bytes((byte + 13) % 256 for byte in data)

    def unseal(self, data, aad):
        return bytes((byte - 13) % 256 for byte in data)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTSTORE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


@pytest.fixture
def begin():
    journals = []

    def begin(name, *ops, sealer=None):
        journal = Folder(journal_dir(), URL, sealer).create(name, 2**20, lambda *_: None)
        journals.append(journal)
        for position, op in enumerate(ops, 1):
            journal.write(op if isinstance(op, bytes) else encode(op), None, position)
        assert journal.wait(30)
        return journal

    yield begin
    for journal in journals:
        journal.close()


def run(*arguments):
    return CliRunner().invoke(app, ["journal", *arguments], catch_exceptions=False)


def printed(*arguments, code=0):
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (code, "")
    return json.loads(result.stdout)


def test_none(home):
    assert run("ls").stdout == "There are none.\n"
    assert printed("verify") == {"intact": True, "journals": []}
    assert list(home.iterdir()) == []


def test_ls(begin):
    begin("dead", APPEND, SET).close()
    begin("live", APPEND)
    Folder(journal_dir(), URL).reject("dead", 7, encode(SET), "not yours")
    found = printed("ls")["journals"]
    assert [(item["journal"], item["state"], item["records"]) for item in found] == [
        ("dead", "dead", 2),
        ("live", "live", 1),
        ("dead", "rejected", 1),
    ]
    assert all(item["bytes"] > 100 and item["store"] == str(URL) for item in found)
    table = run("ls").stdout
    for word in ("dead", "live", "rejected", "db.example", "0:00:0"):
        assert word in table
    assert "hunter2" not in table
    assert [item.id for item in Folder(journal_dir(), URL).leftovers()] == ["dead"], "nothing stays locked"


def test_ls_elsewhere(tmp_path):
    there = Folder(tmp_path / "there", URL).create("j", 2**20, lambda *_: None)
    there.write(encode(SET), None, 1)
    there.close()
    assert printed("ls")["journals"] == []
    [journal] = printed("ls", "--dir", str(tmp_path / "there"))["journals"]
    assert journal["journal"] == "j"


def test_show(begin):
    begin("j", APPEND, SET).close()
    Folder(journal_dir(), URL).reject("j", 7, encode(SET), "not yours")
    first, second, third = printed("show", "j")["records"]
    assert (first["position"], first["append"]["user_id"]) == (1, "ann")
    assert [Message.from_dict(item) for item in first["append"]["messages"]] == list(APPEND.messages)
    items = [{"key": "k", "value": 1}, {"key": "b", "bytes": "/w=="}]
    assert second["set"] == {"namespace": "n", "ttl": None, "items": items}
    assert (third["position"], third["state"], third["reason"], third["set"]) == (
        7,
        "rejected",
        "not yours",
        second["set"],
    )
    table = run("show", "j").stdout
    assert "\x1b" not in table
    for part in ("append", "hello \\x1b[2J [bold]", "k: 1", "refused, not yours"):
        assert part in table
    assert len(printed("show", "j", "--limit", "2")["records"]) == 2
    assert "There are more" in run("show", "j", "--limit", "2").stdout
    result = run("show", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no journal 'nobody'" in result.stderr


def test_what_is_sealed_is_counted_and_not_shown(begin):
    begin("j", APPEND, sealer=Rot13()).close()
    [record] = printed("show", "j")["records"]
    assert sorted(record) == ["encrypted", "position", "state"]
    assert "encrypted" in run("show", "j").stdout
    assert printed("verify")["intact"]


def test_verify(begin):
    journal = begin("j", APPEND, SET, SET)
    assert printed("verify")["intact"]
    journal.close()
    [segment] = journal.path.glob("*.log")
    whole = segment.read_bytes()

    segment.write_bytes(whole[:-1])
    result = printed("verify", "j")
    assert [(item["records"], item["torn"], item["damaged"]) for item in result["journals"]] == [(2, 1, 0)]
    assert result["intact"]

    segment.write_bytes(whole.replace(b"hello", b"jello"))
    [found] = printed("verify", code=1)["journals"]
    assert (found["records"], found["damaged"]) == (2, 1)
    told = run("verify")
    assert told.exit_code == 1
    assert f"of {segment} cannot be read: it is damaged" in told.stdout
    assert {record["state"] for record in printed("show", "j")["records"]} == {"damaged", "dead"}


def test_verify_reads_the_payloads_and_what_was_refused(begin):
    begin("j", b"A[]", SET).close()
    [found] = printed("verify", code=1)["journals"]
    assert (found["records"], found["damaged"]) == (1, 1)
    assert "record 1" in found["places"][0]
    path = Folder(journal_dir(), URL).reject("k", 7, encode(SET), "not yours")
    path.write_bytes(path.read_bytes()[:-1])
    [found] = printed("verify", "k", code=1)["journals"]
    assert found["damaged"] == 1


def test_replay(tmp_path, monkeypatch):
    url, store = f"sqlite:///{tmp_path}/x.db", StoreURL.parse(f"sqlite:///{tmp_path}/x.db")
    folder = Folder(None, store)
    folder.keep("dead", [Record(1, encode(APPEND)), Record(2, encode(SET))])
    folder.reject("dead", 3, encode(replace(APPEND, session_id="other")), "not yours")
    folder.reject("dead", 4, encode(replace(APPEND, user_id="somebody else")), "not yours")
    assert printed("replay", url) == {"replayed": 2, "stored": 0, "refused": []}
    result = run("replay", url, "--refused")
    assert (result.exit_code, result.stdout) == (1, "replayed: 0, stored of what was refused: 1\n")
    assert result.stderr.startswith("refused again: session ")
    assert [(seen["state"], seen["records"]) for seen in printed("ls")["journals"]] == [("rejected", 1)]
    with db(url) as database:
        for name in (APPEND.session_id, "other"):
            assert [m.id for m in database.sync.messages(name)] == [m.id for m in APPEND.messages]
