"""What cancellation, loops, threads and a close promise."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from agentstore.database import db
from agentstore.errors import ClosedError

from .common import Contract, assert_rising, contents, say, seqs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentstore.database import Database
    from agentstore.records import Message

PARTS = 3


CALLS: dict[str, Callable[[Database, int], Awaitable[Any]]] = {
    "pop": lambda database, _: database.pop("s", 2),
    "clear": lambda database, _: database.clear("s"),
    "update_session": lambda database, number: database.update_session("s", title=str(number)),
    "fork": lambda database, number: database.fork("s", f"fork {number}"),
    "purge_expired": lambda database, _: database.purge_expired(),
    "increment": lambda database, _: database.state.increment("n"),
    "set_many": lambda database, number: database.state.set_many({"a": number, "b": number}),
    "messages": lambda database, _: database.messages("s"),
    "sessions": lambda database, _: database.sessions(),
    "scan": lambda database, _: database.state.scan(),
}


async def _loiter(chance: random.Random) -> None:
    """A random moment: now, some steps of the loop later, or some milliseconds later."""
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)
    if chance.random() < 0.5:
        await asyncio.sleep(chance.random() * 0.005)


async def _settle(database: Database) -> None:
    """Give what should not happen the time to happen."""
    await database.flush()
    for _ in range(5):
        await asyncio.sleep(0.005)
        await database.ping()


class CancellationContract(Contract):
    """A cancelled write happens whole or not at all, and never afterwards."""

    @pytest.mark.parametrize("seed", range(3))
    async def test_a_cancelled_append_is_whole_or_absent(self, database: Database, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  to be repeated
        batches = [[say(f"{number}:{part}") for part in range(PARTS)] for number in range(60)]
        tasks: list[asyncio.Task[list[Message]]] = []
        for batch in batches:
            tasks.append(asyncio.create_task(database.append("s", batch)))
            await _loiter(chance)
            tasks[chance.randrange(len(tasks))].cancel()
        await asyncio.wait(tasks)
        seen = await database.messages("s")
        assert_rising(seen)
        said = [message.content for message in seen]
        for batch, task in zip(batches, tasks, strict=True):
            stored = [message for message in seen if message.id in {m.id for m in batch}]
            assert len(stored) in {0, PARTS}, "all or none"
            if stored:
                start = said.index(batch[0].content)
                assert said[start : start + PARTS] == [m.content for m in batch]
            if not task.cancelled():
                assert task.result() == stored, "what was acknowledged is there"
        assert any(task.cancelled() for task in tasks)

        marker = await database.append("s", say("marker"))
        await _settle(database)
        assert await database.messages("s") == seen + marker, "nothing appears after a cancelled call has ended"

        answers = [await database.append("s", batch) for batch in batches]
        messages = await database.messages("s")
        assert_rising(messages)
        assert sorted(m.id for m in messages) == sorted(m.id for m in [*marker, *(m for b in batches for m in b)])
        assert messages[: len(seen) + 1] == seen + marker
        assert all(message in messages for answer in answers for message in answer)

    async def test_a_timeout_is_one_timeout(self, database: Database) -> None:
        chance = random.Random(1)  # noqa: S311  to be repeated
        for number in range(30):
            try:
                async with asyncio.timeout(chance.random() * 0.003):
                    await database.append("s", say(str(number)))
                    await database.state.set("k", number)
            except TimeoutError:
                pass
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0)  # a cancellation left over would come here
        assert len(set(await contents(database))) == len(await contents(database))

    async def test_a_cancelled_call_leaves_the_others_alone(self, database: Database) -> None:
        tasks = [asyncio.create_task(database.append("s", say(str(number)))) for number in range(40)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, list) for outcome in outcomes[1::2])
        said = await contents(database)
        assert [text for text in said if int(text) % 2] == [str(number) for number in range(1, 40, 2)]

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_other_cancelled_calls(
        self, database: Database, call: Callable[[Database, int], Awaitable[Any]]
    ) -> None:
        chance = random.Random(2)  # noqa: S311  to be repeated
        await database.append("s", [say(str(number)) for number in range(20)])
        await database.state.set("n", 0)
        for number in range(4):
            task = asyncio.create_task(_call(call, database, number))
            await _loiter(chance)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None
            before = await _everything(database)
            state, talk = before[0], before[1]["s"]
            assert state.get("a") == state.get("b"), "all or none"
            assert 0 <= state["n"] <= number + 1
            assert len(talk["messages"]) % 2 == 0
            assert len(talk["messages"]) == talk["session"]["message_count"]
            await _settle(database)
            assert await _everything(database) == before, "nothing happens after a cancelled call has ended"


async def _everything(database: Database) -> tuple[dict[str, Any], dict[str, Any]]:
    sessions = (await database.sessions(limit=100)).items
    state = {item.key: item.value for item in await database.state.scan()}
    return state, {session.id: await database.export_session(session.id) for session in sessions}


async def _call(call: Callable[[Database, int], Awaitable[Any]], database: Database, number: int) -> None:
    await call(database, number)


class LoopContract(Contract):
    """One Database over several event loops and threads, and after its close."""

    def test_several_loops_one_after_another(self, database_url: str, options: dict[str, Any]) -> None:
        database = db(database_url, **options)

        async def turn(number: int) -> list[Any]:
            await database.append("s", say(str(number)))
            await database.state.increment("n")
            return await contents(database)

        for number in range(4):
            assert asyncio.run(turn(number)) == [str(n) for n in range(number + 1)]
        assert database.sync.state.get("n") == 4
        database.close()

    def test_several_threads_at_once(self, database_url: str, options: dict[str, Any]) -> None:
        with db(database_url, **options) as database, ThreadPoolExecutor(4) as threads:

            async def write(writer: int) -> None:
                async def talk(task: int) -> None:
                    for turn in range(5):
                        await database.append("s", say(f"{writer}.{task}:{turn}"))
                        await database.state.increment("n")

                await asyncio.gather(*(talk(task) for task in range(3)))

            def write_blocking(writer: int) -> None:
                for turn in range(5):
                    database.sync.append("s", say(f"{writer}.0:{turn}"))
                    database.sync.state.increment("n")

            for future in [
                *(threads.submit(asyncio.run, write(writer)) for writer in range(3)),
                threads.submit(write_blocking, 3),
            ]:
                future.result(timeout=60)
            messages = database.sync.messages("s")
            assert_rising(messages)
            said = [str(message.content) for message in messages]
            assert len(said) == len(set(said)) == 50
            for writer in {text.partition(":")[0] for text in said}:
                assert [t for t in said if t.startswith(f"{writer}:")] == [f"{writer}:{turn}" for turn in range(5)]
            assert database.sync.state.get("n") == 50

    def test_a_loop_that_ended_early_takes_nothing_with_it(self, database_url: str, options: dict[str, Any]) -> None:
        with db(database_url, **options) as database:

            async def leave() -> None:
                tasks = [asyncio.create_task(database.append("s", say(str(number)))) for number in range(20)]
                await tasks[0]

            asyncio.run(leave())  # cancels what is left
            database.sync.append("s", say("afterwards"))
            said = database.sync.messages("s")
            assert_rising(said)
            assert [said[0].content, said[-1].content] == ["0", "afterwards"]
            assert len({m.id for m in said}) == len(said) <= 21

    def test_the_blocking_face(self, database_url: str, options: dict[str, Any]) -> None:
        with db(database_url, **options) as database:
            stored = database.sync.append("s", [say("one"), say("two")])
            assert database.sync.messages("s", limit=1) == stored[1:]
            assert list(database.sync.iter_messages("s", batch_size=1)) == stored
            assert database.sync.state.scope("a").set("k", 1) >= 1
            assert seqs(database.sync.pop("s")) == seqs(stored[1:])

    async def test_a_blocking_call_while_the_loop_has_writes_in_flight(self, database: Database) -> None:
        # The call blocks this loop, so nothing that it waits for may wait for this loop: no lock held over an await.
        for step in range(20):
            tasks = [
                asyncio.create_task(database.append("s", say(f"async {step}"))),
                asyncio.create_task(database.state.increment("n")),
                asyncio.create_task(database.update_session("s", title=f"{step}")) if step else None,
            ]
            await asyncio.sleep(step / 4000)  # to stop at another point of their way each time
            database.sync.append("s", say(f"blocking {step}"))
            database.sync.state.increment("n")
            await asyncio.gather(*filter(None, tasks))
        said = await contents(database)
        assert sorted(said) == sorted(f"{kind} {step}" for kind in ("async", "blocking") for step in range(20))
        assert await database.state.get("n") == 40

    async def test_a_closed_database(self, database: Database) -> None:
        await database.append("s", say())
        await database.ping()
        await database.aclose()
        await database.aclose()
        for call in (
            database.append("s", say()),
            database.messages("s"),
            anext(database.iter_messages("s")),
            database.pop("s"),
            database.clear("s"),
            database.session("s"),
            database.sessions(),
            database.update_session("s", title="t"),
            database.delete_session("s"),
            database.purge_expired(),
            database.fork("s"),
            database.export_session("s"),
            database.flush(),
            database.ping(),
            database.state.get("k"),
            database.state.set("k", 1),
            database.state.delete("k"),
            database.state.scan(),
            database.state.increment("k"),
        ):
            with pytest.raises(ClosedError):
                await call

    async def test_a_close_commits_what_is_pending(self, database_url: str, options: dict[str, Any]) -> None:
        database = db(database_url, **options)
        tasks = [asyncio.create_task(database.append("s", say(str(number)))) for number in range(20)]
        await tasks[0]
        await database.aclose()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, (list, ClosedError)) for outcome in outcomes)
        assert isinstance(outcomes[0], list)
