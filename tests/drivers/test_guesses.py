"""What a process wrote last is not asked for again: every backend that guesses so, with others who write there too."""

import sys
import time
from datetime import timedelta

import pytest

from agentstore import Message, PoolOptions
from agentstore.drivers import registry
from agentstore.drivers.recent import Recent, RecentItems
from agentstore.protocol import Append, Change, DeleteKeys, GetItems, Head, Increment, Mark, Read, SetItems
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["postgresql", "mysql", "redis"])
async def pair(fresh, request):
    """Two backends on one store, as two processes have them."""
    url = StoreURL.parse(fresh(request.param))
    backends = [registry.load(url, PoolOptions()) for _ in range(2)]
    for backend in backends:
        await backend.aopen()
    yield backends
    for backend in backends:
        await backend.aclose()


@pytest.fixture
def looks(monkeypatch, pair):
    """Calls of whatever looks before a write, by name."""
    found = []
    driver = type(pair[0]).__module__.rpartition(".")[0]
    looking = {
        "postgresql": ("sessions.Sessions", "load"),
        "mysql": ("appends", "_load"),
        "redis": ("appends", "_find"),
    }
    states = {"postgresql": ("state.State", "_load"), "mysql": ("state", "write_items"), "redis": ("state", "_load")}

    def note(path, name):
        module, _, owner = path.partition(".")
        where = sys.modules[f"{driver}.{module}"]
        where = getattr(where, owner) if owner else where
        look = getattr(where, name)

        async def noted(*args, **options):
            found.append(path)
            return await look(*args, **options)

        monkeypatch.setattr(where, name, noted)

    for places in (looking, states):
        note(*places[driver.rpartition(".")[2]])
    return found


def turn(*texts, **options):
    return Append("s", tuple(Message("user", text) for text in texts), **options)


async def said(backend):
    (messages,) = await backend.read([Read("s")])
    return [(message.content, message.seq) for message in messages]


async def test_the_second_append_looks_at_nothing(pair, looks):
    await pair[0].append([turn("a")])
    looks.clear()
    for text in "bcd":
        await pair[0].append([turn(text), Append("other" + text, (Message("user", "new"),))][: 1 if text != "d" else 2])
    assert len(looks) == 1, "for the session that is new"
    assert await said(pair[1]) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    (head,) = await pair[1].heads([Head("s")])
    assert (head.message_count, head.last_seq) == (4, 4)


async def test_what_another_appended_is_not_overlooked(pair):
    one, two = pair
    for step in range(3):
        await one.append([turn(f"one {step}")])
        await two.append([turn(f"two {step}")])
    assert [text for text, _ in await said(one)] == [f"{who} {step}" for step in range(3) for who in ("one", "two")]
    assert [seq for _, seq in await said(one)] == list(range(1, 7))


async def test_a_retry_of_what_is_stored_stores_nothing(pair, monkeypatch):
    monkeypatch.setattr(Recent, "shared", lambda *_: None)  # which would keep the next from guessing
    op = turn("a", "b")
    (stored,) = await pair[0].append([op])
    assert await pair[0].append([op]) == [stored]
    mixed = Append("s", (op.messages[1], Message("user", "c")))
    ((known, fresh),) = await pair[0].append([mixed])
    assert (known, fresh.content, fresh.seq) == (stored[1], "c", 3)
    assert await said(pair[1]) == [("a", 1), ("b", 2), ("c", 3)]


async def test_an_id_that_another_stored_meanwhile_is_known(pair):
    one, two = pair
    await one.append([turn("a")])
    op = turn("b")
    (stored,) = await two.append([op])
    assert await one.append([op]) == [stored]
    assert len(await said(one)) == 2


@pytest.mark.parametrize("change", ["pop", "clear", "delete", "update"])
async def test_what_another_did_to_the_session_is_seen(pair, change):
    one, two = pair
    await one.append([turn("a", "b")])
    match change:
        case "pop":
            await two.pop("s", 1)
        case "clear":
            await two.clear("s")
        case "delete":
            await two.delete("s")
        case "update":
            await two.update(Change("s", title="t", metadata={"k": 1}))
    ((message,),) = await one.append([turn("c")])
    left = {"pop": [("a", 1)], "clear": [], "delete": [], "update": [("a", 1), ("b", 2)]}[change]
    assert await said(two) == [*left, ("c", message.seq)]
    assert message.seq == {"pop": 4, "clear": 4, "delete": 3, "update": 3}[change]
    (head,) = await two.heads([Head("s")])
    assert head.message_count == len(left) + 1
    assert (head.title, head.metadata) == (("t", {"k": 1}) if change == "update" else (None, {}))


async def test_a_guessed_session_keeps_title_metadata_and_expiry(pair):
    await pair[0].append([turn("a", metadata={"k": ["v"]}, ttl=timedelta(hours=1), user_id="u", agent="x")])
    await pair[0].append([turn("b")])
    (head,) = await pair[1].heads([Head("s")])
    assert (head.metadata, head.user_id, head.agent) == ({"k": ["v"]}, "u", "x")
    assert head.expires_at - head.updated_at == timedelta(hours=1)


async def test_a_stranger_is_refused(pair):
    await pair[0].append([turn("a", user_id="u")])
    (outcome,) = await pair[0].append([turn("b", user_id="v")])
    assert "another user" in str(outcome)
    assert await said(pair[0]) == [("a", 1)]


async def test_a_clock_that_ran_away_is_set_again(pair):
    one, two = pair
    await one.append([turn("a")])
    clock = next(
        found
        for owner in (one, getattr(one, "_wire", None), getattr(getattr(one, "_log", None), "_sessions", None))
        for name in ("_clock", "clock")
        if (found := getattr(owner, name, None)) is not None
    )
    clock._heard = (clock._heard[0] + timedelta(hours=1), time.monotonic())
    await one.append([turn("b")])
    one_head, two_head = (await one.heads([Head("s")]))[0], (await two.heads([Head("s")]))[0]
    assert one_head == two_head
    assert one_head.updated_at - one_head.created_at < timedelta(minutes=30)
    assert await said(two) == [("a", 1), ("b", 2)]


async def test_marks_go_on(pair):
    marked = [turn(str(position), mark=Mark("q", position)) for position in (1, 2, 3)]
    for op in marked:
        await pair[0].append([op])
    await pair[0].append([turn("unmarked")])
    await pair[0].append([marked[1]])
    assert [text for text, _ in await said(pair[1])] == ["1", "2", "3", "unmarked"]
    await pair[0].pop("s", 4)
    await pair[0].append([marked[2]])
    assert await said(pair[1]) == [], "a replay brings nothing back"


# --- the state ---


async def value(backend, key="k"):
    (found,) = await backend.get_items([GetItems("n", (key,))])
    return (found[key].value, found[key].version) if key in found else None


async def test_the_second_set_looks_at_nothing(pair, looks):
    await pair[0].write_items([SetItems("n", {"k": 0, "l": 0})])
    looks.clear()
    for number in range(1, 4):
        versions = await pair[0].write_items([SetItems("n", {"k": number}), SetItems("n", {"k": -number, "l": number})])
        assert versions == [2 * number, number + 1]
    assert looks == []
    assert (await value(pair[1]), await value(pair[1], "l")) == ((-3, 7), (3, 4))


@pytest.mark.parametrize(
    ("between", "version"),
    [
        (SetItems("n", {"k": "theirs"}), 4),
        (Increment("n", "k", 5), 4),
        (DeleteKeys("n", ("k",)), 3),
        (SetItems("n", {"k": "theirs"}, ttl=timedelta(hours=1)), 4),
    ],
)
async def test_what_another_did_to_a_key_is_not_overlooked(pair, between, version):
    one, two = pair
    await one.write_items([SetItems("n", {"k": 1})])
    await one.write_items([SetItems("n", {"k": 2})])
    await two.write_items([between])
    assert await one.write_items([SetItems("n", {"k": "mine"})]) == [version]
    assert await value(two) == ("mine", version)
    (found,) = await two.get_items([GetItems("n", ("k",))])
    assert found["k"].expires_at is None


async def test_a_version_never_comes_twice_though_it_was_guessed(pair, monkeypatch):
    monkeypatch.setattr(RecentItems, "written", _always(RecentItems.written))
    one, two = pair
    seen = []
    for step in range(6):
        seen += await one.write_items([SetItems("n", {"k": step})])
        seen += await two.write_items([SetItems("n", {"k": step})])
        await (one, two)[step % 2].write_items([DeleteKeys("n", ("k",))])
    assert len(set(seen)) == len(seen) == 12


def _always(written):
    """Who writes a namespace too does not keep the next write from being guessed."""
    return lambda recent, items, missed=(): written(recent, items)


async def test_several_keys_are_set_together_or_not_at_all(pair):
    one, two = pair
    await one.write_items([SetItems("n", {"a": 1, "b": 1})])
    await two.write_items([DeleteKeys("n", ("b",))])
    (version,) = await one.write_items([SetItems("n", {"a": 2, "b": 2})])
    assert (await value(two, "a"), await value(two, "b")) == ((2, 2), (2, version))
    assert version == 2
