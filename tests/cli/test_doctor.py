"""`agentstore doctor`: what it says of stores that are fit, doubtful, unfit and out of reach."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentstore import ConfigurationError, ConflictError, Message, UnavailableError, db
from agentstore.cli import doctor
from agentstore.cli.app import app
from agentstore.drivers import disk
from agentstore.drivers.memory import MemoryBackend
from agentstore.drivers.sql.upgrade import VERSION
from agentstore.findings import Finding
from agentstore.stats import PoolStats

STORES = ["sqlite:///x.db", "json:///x"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("AGENTSTORE_DATABASE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def memory(monkeypatch):
    """``memory(method=...)``: memory: with other methods."""

    def change(**methods):
        for name, method in methods.items():
            monkeypatch.setattr(MemoryBackend, name, method)

    return change


def run(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)


def found(url: str, code: int = 0) -> dict[str, dict[str, str]]:
    result = run(url, "--json")
    assert (result.exit_code, result.stderr) == (code, "")
    answer = json.loads(result.stdout)
    assert answer["fit"] == (code == 0)
    return {finding["subject"]: finding for finding in answer["findings"]}


def make(url: str) -> None:
    with db(url) as database:
        database.sync.append("s", Message("user", "hello"))
        database.sync.state.set("key", 1)


# --- fit ---


@pytest.mark.parametrize("url", STORES)
def test_a_store_that_is_fit(url):
    make(url)
    result = run(url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{url}\n")
    for subject in ("server", "schema", "disk", "round trip", "rights"):
        assert f" {subject} " in result.stdout
    assert result.stdout.endswith("It is fit for use: no warnings.\n")


@pytest.mark.parametrize("url", STORES)
def test_nothing_is_left_behind(url):
    make(url)
    for _ in range(2):
        assert found(url)["rights"]["level"] == "ok"
    with db(url) as database:
        assert [session.id for session in database.sync.sessions().items] == ["s"]
        assert [message.content for message in database.sync.messages("s")] == ["hello"]
        assert [item.key for item in database.sync.state.scan()] == ["key"]
        assert database.sync.purge_expired() == 0


def test_what_sqlite_says(folder):
    make("sqlite:///x.db")
    findings = found("sqlite:///x.db")
    assert sqlite3.sqlite_version in findings["server"]["value"]
    assert findings["schema"]["value"] == f"version {VERSION}"
    assert str(folder / "x.db") in findings["file"]["value"]
    assert findings["journal mode"]["value"] == "wal"
    assert findings["synchronous"]["value"].startswith("FULL")
    assert findings["integrity"]["value"] == "checked"
    assert "pool" not in findings


def test_what_json_files_say(folder):
    make("json:///x")
    findings = found("json:///x")
    assert findings["schema"]["value"] == "format 1"
    assert findings["folder"]["value"] == f"{folder / 'x'}: 1 sessions, 1 keys in 1 namespaces"
    assert findings["logs"]["value"] == "all can be read"


def test_the_default_is_that_of_db(monkeypatch):
    make("sqlite:///agentstore.db")
    assert run().stdout.startswith("sqlite:///agentstore.db\n")
    monkeypatch.setenv("AGENTSTORE_DATABASE_URL", "memory:")
    assert run().stdout.startswith("memory://\n")


def test_a_pool_is_shown(memory):
    memory(pools=lambda self: (PoolStats("x://h", size=2, in_use=0, waiting=0),))
    assert found("memory:")["pool"]["value"].startswith("2 of at most 10 connections open")


# --- doubtful ---


@pytest.mark.parametrize("url", ["memory:", "sqlite://"])
def test_what_ends_with_its_process(url):
    result = run(url)
    assert result.exit_code == 0
    assert "warning, durability: All of it ends with this process" in result.stdout
    assert "It is fit for use: 1 warning." in result.stdout


def test_a_full_disk(monkeypatch):
    make("sqlite:///x.db")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40 - 2**20, 2**20))
    finding = found("sqlite:///x.db")["disk"]
    assert (finding["level"], finding["value"]) == ("warning", "1.0 MiB free of 1.0 TiB")
    assert "Make room" in finding["advice"]


def test_a_network_mount(monkeypatch, folder):
    inside = folder / "with space" / "deeper"
    inside.mkdir(parents=True)
    mounts = folder / "mountinfo"
    lines = [
        "20 1 8:1 / / rw - ext4 /dev/sda1 rw",
        f"21 20 0:5 / {folder} rw shared:1 master:2 - nfs4 server:/x rw",
        f"22 21 0:6 / {folder}/with\\040space rw - cifs //server/y rw",
    ]
    mounts.write_text("\n".join(lines))
    monkeypatch.setattr(disk, "_MOUNTS", mounts)
    kinds = [disk.findings(place)[1].value.split(",")[0] for place in (Path("/"), folder, inside)]
    assert kinds == ["ext4", "nfs4", "cifs"]
    make("sqlite:///x.db")
    assert found("sqlite:///x.db")["file system"]["level"] == "warning"
    monkeypatch.setattr(disk, "_MOUNTS", folder / "none")
    assert "file system" not in found("sqlite:///x.db")


def test_a_big_database_is_not_read_in_passing(monkeypatch):
    make("sqlite:///x.db")
    monkeypatch.setattr("agentstore.drivers.sqlite.examine._CHECKED", 1)
    assert "not checked" in found("sqlite:///x.db")["integrity"]["value"]


def test_a_log_that_cannot_be_read(folder):
    make("json:///x")
    (log,) = (folder / "x" / "sessions").glob("*.jsonl")
    log.write_bytes(b"[]\n" + log.read_bytes())
    finding = found("json:///x")["logs"]
    assert finding["level"] == "warning"
    assert finding["value"] == f"1 cannot be read: {log.name}"


def test_a_name_that_is_taken_is_left_alone(memory, monkeypatch):
    taken = iter([7, 7, 8])
    monkeypatch.setattr(doctor.secrets, "randbelow", lambda _: next(taken))
    append, refused = MemoryBackend.append, []

    async def refuse(self, batch):
        if batch[0].session_id.endswith("7"):
            refused.append(batch[0].expected_seq)
            return [ConflictError("taken")]
        return await append(self, batch)

    memory(append=refuse)
    assert found("memory:")["rights"]["level"] == "ok"
    assert refused == [0, 0]
    monkeypatch.setattr(doctor.secrets, "randbelow", lambda _: 7)
    assert found("memory:")["rights"]["level"] == "warning"


# --- unfit ---


def test_a_store_that_is_unfit(memory):
    async def examine(self):
        return [Finding("eviction", "allkeys-lru", "unfit", "Set maxmemory-policy to noeviction")]

    memory(examine=examine)
    result = run("memory:")
    assert result.exit_code == 1
    assert "unfit, eviction: Set maxmemory-policy to noeviction" in result.stdout
    assert "It is unfit for use: no warnings." in result.stdout
    assert found("memory:", code=1)["eviction"]["level"] == "unfit"


def test_rights_that_do_not_suffice(memory):
    async def refuse(self, batch):
        raise UnavailableError("permission denied for table agentstore_messages", hint="Grant INSERT")

    memory(append=refuse)
    finding = found("memory:", code=1)["rights"]
    assert (finding["level"], finding["advice"]) == ("unfit", "Grant INSERT")
    assert finding["value"] == "permission denied for table agentstore_messages"


@pytest.mark.parametrize("method", ["read", "get_items"])
def test_a_store_that_forgets(memory, method):
    async def forget(self, batch):
        return [[] if method == "read" else {} for _ in batch]

    memory(**{method: forget})
    assert "does not hold what was just stored" in found("memory:", code=1)["rights"]["value"]


def test_a_damaged_database(folder):
    with db("sqlite:///x.db") as database:
        for _ in range(50):
            database.sync.append("s", Message("user", "x" * 3000))
    path = folder / "x.db"
    data = path.read_bytes()
    path.write_bytes(data[:-40960] + b"\xff" * 4096 + data[-36864:])
    finding = found("sqlite:///x.db", code=1)["integrity"]
    assert finding["level"] == "unfit"
    assert "Restore a backup" in finding["advice"]


# --- out of reach ---


@pytest.mark.parametrize("url", STORES)
def test_a_file_that_is_not_there_is_not_made(folder, url):
    result = run(url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "does not exist yet" in result.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", [UnavailableError, ConfigurationError])
def test_an_error_is_one_line(memory, kind):
    async def fail(self):
        raise kind("postgresql://u:***@h/d: the server\nsays no", hint="Start it")

    memory(aopen=fail)
    result = run("memory:")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "agentstore: postgresql://u:***@h/d: the server\\x0asays no. Start it\n"


@pytest.mark.parametrize("url", ["nosql://u:hunter2@h", "memory:?password=hunter2", "u:hunter2@h"])
def test_a_url_that_cannot_be_right_is_wrong_usage(url):
    result = run(url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.output


def test_it_is_closed_whatever_happens(memory):
    closed = []

    async def close(self):
        closed.append(self)

    async def fail(self):
        raise UnavailableError("gone")

    memory(aclose=close, ping=fail)
    assert run("memory:").exit_code == 1
    assert len(closed) == 1
