"""What a store that outlives a process promises: it is all there again, and processes share it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentstore.database import db

from .common import PATIENCE, Contract, assert_rising, contents, guarantee, say, seqs

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping

    from agentstore.database import Database

NAMES = ["p0", "p1", "p2", "p3"]
WORKER = Path(__file__).with_name("worker.py")


async def together(url: str, job: str, count: int, options: Mapping[str, Any] = MappingProxyType({})) -> list[Any]:
    """Let four processes do a job of `agentstore.testing.worker`, begun at one moment; their results."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "error"}
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(WORKER), url, job, name, str(count)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        for name in NAMES
    ]
    try:
        async with asyncio.timeout(3 * PATIENCE):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            return await asyncio.gather(*(_run(process, options) for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _run(process: Process, options: Mapping[str, Any]) -> Any:
    out, err = await process.communicate(base64.b64encode(pickle.dumps(dict(options))) + b"\n")
    assert process.returncode == 0, err.decode(errors="replace")
    assert not err, err.decode(errors="replace")
    return json.loads(out)


class ProcessContract(Contract):
    """For drivers whose store several processes may open; inherit it beside `StoreContract`."""

    async def test_all_is_there_after_a_reopening(self, database_url: str, options: dict[str, Any]) -> None:
        async with db(database_url, **options) as database:
            await database.append("s", [say("one"), say("\x00\ud83d"), say("gone")], user_id="u", metadata={"k": 2**70})
            await database.pop("s")
            await database.update_session("s", title="t", ttl=1000)
            deleted = await database.append("deleted", [say(), say()])
            await database.delete_session("deleted")
            await database.state.scope("n").set_many({"a": -0.0, "b": b"\xff"})
            version = await database.state.set("removed", 1)
            await database.state.delete("removed")
            export = await database.export_session("s")
            items = await database.state.scope("n").scan()
        async with db(database_url, **options) as database:
            assert await database.export_session("s") == export
            assert await database.state.scope("n").scan() == items
            assert (await database.state.scope("n").get("b"), await database.state.get("removed")) == (b"\xff", None)
            assert [session.id for session in (await database.sessions()).items] == ["s"]
            (known,) = await database.append("s", say("again", id=export["messages"][0]["id"]))
            assert known.content == "one"
            (more,) = await database.append("s", say("more"))
            assert seqs([more])[0] > export["session"]["last_seq"]
            assert seqs(await database.append("deleted", say())) > seqs(deleted[-1:])
            assert await database.state.set("removed", 1) > version

    async def test_two_databases_on_one_store(
        self, database: Database, database_url: str, options: dict[str, Any]
    ) -> None:
        async with db(database_url, **options) as other:
            for number in range(10):
                one, two = (database, other) if number % 2 else (other, database)
                stored = await one.append("s", say(str(number)))
                assert await two.messages("s", limit=1) == stored
                assert await two.session("s") == await one.session("s")
                version = await one.state.set("k", number)
                (item,) = await two.state.scan("k")
                assert (item.value, item.version) == (number, version)
                assert await two.append("s", say("again", id=stored[0].id)) == stored
            await database.delete_session("s")
            assert await other.messages("s") == []
            assert await other.session("s") is None
            fresh = await other.append("s", say("fresh"))
            assert seqs(fresh) > seqs(stored)
            assert await database.messages("s") == fresh

    async def test_two_databases_write_at_once(
        self, database: Database, database_url: str, options: dict[str, Any]
    ) -> None:
        async with db(database_url, **options) as other:

            async def talk(writer: int) -> None:
                face = (database, other)[writer % 2]
                for turn in range(5):
                    await face.append("s", say(f"{writer}:{turn}"))
                    await face.state.increment("n")

            await asyncio.gather(*(talk(writer) for writer in range(16)))
            assert await database.messages("s") == await other.messages("s")
            assert_rising(await other.messages("s"))
            assert sorted(await contents(database)) == sorted(f"{w}:{t}" for w in range(16) for t in range(5))
            assert await other.state.get("n") == 80

    async def test_four_processes_open_an_empty_store(self, database_url: str, options: dict[str, Any]) -> None:
        assert await together(database_url, "begin", 5, options) == [5] * 4
        async with db(database_url, **options) as database:
            for name in NAMES:
                assert await contents(database, f"own {name}") == [str(number) for number in range(5)]
                assert await database.state.scope(name).get("k") == 4
            shared = await contents(database, "shared")
            assert sorted(shared) == sorted(f"{name}:{number}" for name in NAMES for number in range(5))

    async def test_four_processes_append_to_one_session(self, database_url: str, options: dict[str, Any]) -> None:
        await together(database_url, "append", 24, options)
        async with db(database_url, **options) as database:
            messages = await database.messages("s")
            assert_rising(messages)
            said = [str(message.content) for message in messages]
            assert len(said) == len(set(said)) == 4 * 48
            assert [t.rpartition(":")[0] for t in said[::2]] == [t.rpartition(":")[0] for t in said[1::2]], "contiguous"
            for writer in {text.partition(":")[0] for text in said}:
                own = [text for text in said if text.startswith(f"{writer}:")]
                assert own == [f"{writer}:{number}:{part}" for number in range(6) for part in range(2)]
            session = await database.session("s")
            assert session is not None
            assert (session.message_count, session.last_seq) == (4 * 48, messages[-1].seq)

    @guarantee("once between processes")
    async def test_four_processes_retry_one_another(self, database_url: str, options: dict[str, Any]) -> None:
        answers = await together(database_url, "retry", 20, options)
        async with db(database_url, **options) as database:
            messages = await database.messages("s")
            stored = sorted([message.id, message.seq, message.content] for message in messages)
            assert len({message.id for message in messages}) == len(messages) == 20
            assert all(sorted(answer) == stored for answer in answers)

    @guarantee("increment between processes")
    async def test_four_processes_increment(self, database_url: str, options: dict[str, Any]) -> None:
        answers = await together(database_url, "increment", 25, options)
        assert sorted(number for answer in answers for number in answer) == list(range(1, 101))

    @guarantee("if_version between processes")
    async def test_four_processes_compare_and_set(self, database_url: str, options: dict[str, Any]) -> None:
        await together(database_url, "compare_and_set", 10, options)
        async with db(database_url, **options) as database:
            assert await database.state.get("n") == 40

    @guarantee("expected_seq between processes")
    async def test_four_processes_expect_a_seq(self, database_url: str, options: dict[str, Any]) -> None:
        await together(database_url, "expect", 10, options)
        async with db(database_url, **options) as database:
            assert await contents(database) == [str(number) for number in range(40)]

    @guarantee("pop between processes")
    async def test_four_processes_pop(self, database_url: str, options: dict[str, Any]) -> None:
        async with db(database_url, **options) as database:
            await database.append("s", [say(str(number)) for number in range(60)])
            answers = await together(database_url, "pop", 20, options)
            assert sorted(int(text) for answer in answers for text in answer) == list(range(60))
            assert await contents(database) == []
