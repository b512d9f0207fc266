"""The service of examples/: what its clients are promised, seen from outside."""

import asyncio
import contextlib
import json

import httpx
import pytest
from service_kit import Service, assert_stored, turn

import servers
from agentstore import db
from agentstore.testing.common import eventually

pytestmark = pytest.mark.anyio


BACKENDS = ["sqlite", "postgresql"]


@pytest.fixture(params=BACKENDS)
def url(request, tmp_path, fresh):
    return f"sqlite:///{tmp_path}/service.db" if request.param == "sqlite" else fresh("postgresql")


@pytest.fixture(scope="module", params=BACKENDS)
def service(request, tmp_path_factory):
    """One for all tests that do it no harm; it logs no traceback, and ends in good order."""
    folder = tmp_path_factory.mktemp("service")
    with contextlib.ExitStack() as stack:
        is_file = request.param == "sqlite"
        url = f"sqlite:///{folder}/service.db" if is_file else stack.enter_context(servers.fresh("postgresql"))
        service = stack.enter_context(Service(folder, url, MODEL_SECONDS="0.02"))
        yield service
        service.terminate()
        assert "Traceback" not in service.said()


def events(lines: list[str]) -> list[tuple[str, dict]]:
    """(name, data) of server-sent events."""
    found, name = [], ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
            name = ""
    return found


async def history(client: httpx.AsyncClient, session_id: str, **headers: str) -> list[dict]:
    answer = await client.get(f"/sessions/{session_id}/messages", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_turns_streams_history_health_and_stats(service):
    async with service.client() as client:
        answer = await client.post("/turns", **turn("a/1", "hello", user="ann"))
        assert (answer.status_code, answer.json()["answer"][-8:]) == (200, "to hello")
        async with client.stream("POST", "/turns/stream", **turn("a/1", "go on")) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = [line async for line in stream.aiter_lines()]
        pieces = [("", {"text": text}) for text in ("one ", "two ", "three")]
        assert events(lines) == [*pieces, ("done", {})]
        found = await history(client, "a/1", **{"X-User-Id": "ann"})
        said = [(message["role"], message["content"]) for message in found]
        expected = [("user", "hello"), ("assistant", answer.json()["answer"]), ("user", "go on")]
        assert said == [*expected, ("assistant", "one two three")]
        assert (await client.get("/health")).json() == {"status": "ok"}
        await client.post("/turns", **turn("b", "hi"))
        stats = (await client.get("/stats")).json()
        assert set(stats) >= {"pools", "queue", "latencies"}


async def test_each_error_has_its_status(service):
    async with service.client() as client:
        await client.post("/turns", **turn("hers", "hello", user="ann"))
        for path in ("/turns", "/turns/stream"):
            denied = await client.post(path, **turn("hers", "tell me", user="bob"))
            message = "session 'hers' belongs to another user than 'bob'"
            assert (denied.status_code, denied.json()) == (403, {"error": "AccessDeniedError", "message": message})
            large = await client.post(path, **turn("s", "x" * (8 * 2**20 + 1)))
            assert (large.status_code, large.json()["error"]) == (413, "MessageTooLargeError")
            wrong = await client.post(path, **turn("s" * 256, "hello"))
            assert (wrong.status_code, wrong.json()["error"]) == (422, "InvalidInputError")
            nobody = await client.post(path, json={"prompt": "hello"})
            assert (nobody.status_code, nobody.json()["error"]) == (422, "InvalidInputError")
        denied = await client.get("/sessions/hers/messages", headers={"X-User-Id": "bob"})
        assert (denied.status_code, denied.json()["error"]) == (403, "AccessDeniedError")
        assert len(await history(client, "hers", **{"X-User-Id": "ann"})) == 2, "nothing of bob's was stored"


async def test_a_client_that_goes_in_the_middle_leaves_an_interrupted_turn(service):
    async with service.client() as client:
        async with client.stream("POST", "/turns/stream", **turn("cut", "stall")) as stream:
            lines = stream.aiter_lines()
            while (await anext(lines)) != 'data: {"text": "two "}':
                pass

        async def is_stored():
            return len(await history(client, "cut")) == 2

        await eventually(is_stored)
        _, cut = await history(client, "cut")
        assert (cut["content"], cut["metadata"]) == ("one two ", {"interrupted": True})
        following = await client.post("/turns", **turn("cut", "and now?"))
        assert following.status_code == 200
        roles = [message["role"] for message in await history(client, "cut")]
        assert roles == ["user", "assistant"] * 2


async def test_one_idempotency_key_is_one_turn(service):
    clients = [service.client() for _ in range(8)]  # connections of their own, so that both workers take part
    try:
        answers = await asyncio.gather(*(client.post("/turns", **turn("once", "hello", "key")) for client in clients))
        answers.append(await clients[0].post("/turns", **turn("once", "hello", "key")))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["answer"] for answer in answers}) == 1
        async with clients[1].stream("POST", "/turns/stream", **turn("once", "hello", "key")) as stream:
            again = events([line async for line in stream.aiter_lines()])
        assert again == [("", {"text": answers[0].json()["answer"]}), ("done", {})]
        stored = await history(clients[0], "once")
        assert [(m["role"], m["id"] == "key") for m in stored] == [("user", True), ("assistant", False)]
    finally:
        await asyncio.gather(*(client.aclose() for client in clients))


@pytest.mark.parametrize("durability", ["commit", "journal", "memory"])
async def test_no_acknowledged_turn_is_lost_when_it_is_told_to_end(tmp_path, monkeypatch, url, durability):
    sessions = [f"s{number}" for number in range(16)]
    asked: dict[str, list[str]] = {session: [] for session in sessions}
    answered: dict[str, dict[str, str]] = {session: {} for session in sessions}

    ending = asyncio.Event()

    with Service(tmp_path, url, DURABILITY=durability, MODEL_SECONDS="0.01") as service:

        async def talk(session):
            with contextlib.suppress(httpx.TransportError):  # it is no longer there
                async with service.client() as client:
                    while True:
                        prompt = f"{session}-{len(asked[session])}"
                        asked[session].append(prompt)
                        answer = await client.post("/turns", **turn(session, prompt, prompt))
                        if ending.is_set() and answer.status_code >= 500:
                            return
                        assert answer.status_code == 200, answer.text
                        answered[session][prompt] = answer.json()["answer"]

        async def under_load():
            return all(len(turns) >= 3 for turns in answered.values())

        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(talk(session))
            await eventually(under_load)
            ending.set()
            await asyncio.to_thread(service.terminate)
        monkeypatch.setenv("AGENTSTORE_HOME", str(service.home))
        async with db(url) as store:
            assert store.stats().queue.replayed == 0, "it has drained its queue itself"
            for session in sessions:
                assert_stored(await store.messages(session), answered[session], asked[session])


@pytest.mark.parametrize("fallback", ["", "journal"])
async def test_a_database_that_is_killed_is_503_until_it_is_back(tmp_path, private_server, fallback):
    server = private_server("postgresql")
    with Service(tmp_path, server.url, FALLBACK=fallback) as service:
        async with service.client() as client:
            assert (await client.post("/turns", **turn("s", "one", "k1"))).status_code == 200
            held = asyncio.create_task(client.post("/turns", **turn("s", "hold", "k2")))
            await asyncio.to_thread(service.until, (tmp_path / "held").exists)
            server.kill()
            (tmp_path / "go on").touch()
            if fallback:  # its history was read: what it says is journalled
                assert (await held).status_code == 200, (await held).text
            else:
                assert_unavailable(await held)
            # a history that cannot be read is refused, with a fallback too, for a part of it would pass for all
            assert_unavailable(await client.post("/turns", **turn("t", "two", "k3")))
            assert_unavailable(await client.get("/health"))
            server.start()
            for again in (turn("s", "hold", "k2"), turn("t", "two", "k3")):
                answer = await until_well(client, again)
                if fallback and again["json"]["session_id"] == "s":
                    assert answer == (await held).json()["answer"]
            assert [said(m) for m in await history(client, "s")] == ["one", "one", "hold", "hold"]
            assert [said(m) for m in await history(client, "t")] == ["two", "two"]
            assert (await client.get("/health")).status_code == 200


async def until_well(client: httpx.AsyncClient, request: dict) -> str:
    """Send a request again until it is answered; until then it is told that the store is away."""
    answers = []

    async def is_answered():
        answers.append(await client.post("/turns", **request))
        return answers[-1].status_code == 200 or assert_unavailable(answers[-1])

    await eventually(is_answered)
    return answers[-1].json()["answer"]


def assert_unavailable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text
    assert (answer.json()["error"], answer.json()["retry_after"]) == ("UnavailableError", 1)
    assert "127.0.0.1" not in answer.text


def said(message: dict) -> str:
    """The prompt that a message is, or answers."""
    return message["content"].rpartition(" to ")[2]
