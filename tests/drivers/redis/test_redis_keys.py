"""What lies on the server: names of keys, times to live, order."""

from datetime import UTC, datetime, timedelta

import pytest
from redis_kit import eventually, make, say, turn, with_options

from agentstore import db, errors
from agentstore.drivers.redis.keys import Keys, listed, moment, seq_digits
from agentstore.protocol import Change, DeleteKeys, Expire, GetItems, Head, Increment, Listing, Read, Scan, SetItems
from agentstore.records import Session
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
IDS = [
    "a",
    "{",
    "}",
    "{}",
    "{a}b",
    "a}{b",
    "%7B",
    "%",
    "é{",
    " ",
    "s:{x}:head",
    "\U0001f600",
    "a\n\r",
    "*?[x]",
    "x" * 255,
]


@pytest.fixture
def keys(url):
    return Keys(StoreURL.parse(url).options["prefix"])


def slot(raw, key):
    from redis.crc import key_slot  # noqa: PLC0415  what the server would say on a cluster

    return key_slot(key.encode())


@pytest.mark.parametrize("name", IDS, ids=repr)
def test_the_keys_of_one_are_in_one_slot(name):
    keys = Keys("p")
    assert len({slot(None, key) for key in keys.session(name)}) == 1
    names = keys.namespace(name)
    assert len({slot(None, key) for key in (*names, names.item + "any{key}")}) == 1


def test_no_two_have_a_key_in_common():
    found = []
    for prefix in ("a", "a:s", "a:n", "a:sessions"):
        keys = Keys(prefix)
        for name in (*IDS, "s", "n"):
            found += [*keys.session(name), *keys.namespace(name), keys.user(name)]
        found += [*keys.namespace(""), keys.schema, keys.sessions, keys.expiring, keys.expiring_items]
    assert len(set(found)) == len(found)


def test_digits_sort_as_times_and_seqs():
    times = [-62_135_596_800_000_000, -1, 0, 1, 10**15, 253_402_300_799_999_999]
    assert sorted(map(moment, times)) == [moment(micros) for micros in times]
    assert [listed(moment(micros) + "x") for micros in times] == [(micros, "x") for micros in times]
    seqs = [0, 1, 9, 10, 2**53, 2**53 + 1, 2**62]
    assert sorted(map(seq_digits, seqs)) == [seq_digits(seq) for seq in seqs]


async def test_prefixes_never_see_each_other(url):
    async with db(url) as one, db(with_options(url, prefix=f"{StoreURL.parse(url).options['prefix']}:s")) as two:
        for database, text in ((one, "one"), (two, "two")):
            await database.append("s", say(text), user_id=text)
            await database.state.set("k", text)
        for database, text in ((one, "one"), (two, "two")):
            assert [m.content for m in await database.messages("s")] == [text]
            assert [s.user_id for s in (await database.sessions()).items] == [text]
            assert [item.value for item in await database.state.scan()] == [text]


async def test_one_day_stays_one_day(backend, raw, keys):
    await backend.append([turn("s", ttl=DAY)])
    await backend.write_items([SetItems("n", {"k": 1}, ttl=DAY)])
    session, item = keys.session("s"), keys.namespace("n").item + "k"
    for key in (session.head, session.log, session.ids, item):
        assert 86_390_000 < raw.pttl(key) <= 86_400_001, key
    assert raw.pttl(session.last) == -1
    await backend.update(Change("s", ttl=None))
    await backend.write_items([Expire("n", "k", None)])
    assert {raw.pttl(key) for key in (session.head, session.log, session.ids, item)} == {-1}


async def test_what_redis_takes_away_leaves_its_last_seq(backend, raw, keys):
    (old,) = await backend.append([turn("s", "one", "two", ttl=timedelta(milliseconds=30), user_id="u")])
    names = keys.session("s")

    async def gone():
        return not raw.exists(names.head, names.log, names.ids)

    await eventually(gone)
    assert raw.get(names.last) == b"2"
    assert (await backend.list_sessions(Listing())).items == ()
    (new,) = await backend.append([turn("s", "three")])
    assert new[0].seq == old[-1].seq + 1
    (head,) = await backend.heads([Head("s")])
    assert (head.user_id, head.message_count) == (None, 1)


async def test_versions_go_on_when_redis_has_taken_a_key_away(backend, raw, keys):
    item = keys.namespace("n").item + "k"
    versions = []
    for _ in range(3):
        versions += await backend.write_items([SetItems("n", {"k": 1}, ttl=timedelta(milliseconds=20))])

        async def gone():
            return not raw.exists(item)

        await eventually(gone)
    assert versions == [1, 2, 3]
    (outcome,) = await backend.write_items([SetItems("n", {"k": 1}, if_version=3)])
    assert isinstance(outcome, errors.ConflictError)
    assert await backend.write_items([DeleteKeys("n", ("k",))]) == [0]
    assert await backend.write_items([SetItems("n", {"k": 1})]) == [4]
    assert await backend.write_items([SetItems("n", {"other": 1})]) == [4]


async def test_a_purge_counts_also_what_redis_took_away(backend, raw, keys, url):
    soon = timedelta(milliseconds=20)
    await backend.append([turn(f"s{n}", ttl=soon, user_id="u") for n in range(3)])
    await backend.append([turn("stays", user_id="u", ttl=DAY), turn("renewed", ttl=DAY)])
    await backend.update(Change("renewed", ttl=2 * DAY))
    await backend.write_items([SetItems("n", {"a": 1, "b": 2}, ttl=soon), SetItems("n", {"c": 3}, ttl=DAY)])

    expiring = [keys.session(f"s{n}").head for n in range(3)] + [keys.namespace("n").item + key for key in "ab"]

    async def gone():
        return not raw.exists(*expiring)

    await eventually(gone)
    await backend.write_items([SetItems("n", {"b": 2})])
    assert await backend.purge_sessions() == 3
    assert await backend.purge_state() == 1, "b lives again"
    assert (await backend.purge_sessions(), await backend.purge_state()) == (0, 0)
    assert raw.zcard(keys.sessions) == raw.zcard(keys.user("u")) + 1 == raw.zcard(keys.expiring) == 2
    assert raw.zcard(keys.expiring_items) == 1
    assert raw.zrange(keys.namespace("n").names, 0, -1) == [b"b", b"c"]
    assert raw.hgetall(keys.namespace("n").versions).keys() == {b"c"}
    assert [item.key for item in await backend.scan(Scan("n"))] == ["b", "c"]


async def test_nothing_is_left_of_what_was_deleted_but_its_last_seq(backend, raw, keys, url):
    await backend.append([turn("s", "one", user_id="u", ttl=DAY), turn("t")])
    await backend.write_items([SetItems("n", {"k": 1}, ttl=DAY)])
    assert await backend.delete("s")
    assert await backend.delete("t")
    await backend.write_items([DeleteKeys("n", ("k",))])
    names = sorted(key.decode() for key in raw.scan_iter(match=f"{keys.prefix}*", count=1000))
    expected = [keys.schema, keys.session("s").last, keys.session("t").last, keys.namespace("n").floor]
    assert names == sorted(expected)


async def test_what_was_popped_is_gone_from_the_server(backend, raw, keys):
    await backend.append([turn("s", *"abcd")])
    assert [message.content for message in await backend.pop("s", 3)] == ["b", "c", "d"]
    names = keys.session("s")
    assert (raw.zcard(names.log), raw.hlen(names.ids)) == (1, 1)


@pytest.mark.parametrize("year", [1, 1960, 1970, 2255, 8999])
async def test_any_date_is_listed_in_its_place(backend, year):
    times = [datetime(year, 1, 1, 0, 0, 0, micro, tzinfo=UTC) for micro in (0, 1, 2)]
    for number, time in enumerate(times):
        for name in "ab":
            session = Session(f"{name}{number}", created_at=time, updated_at=time, last_seq=1, message_count=1)
            await backend.restore(session, [say("x", seq=1)])
    found, cursor = [], None
    for _ in range(6):
        page = await backend.list_sessions(Listing(limit=1, cursor=cursor))
        found += [(session.id, session.updated_at) for session in page.items]
        cursor = page.next_cursor
    assert found == [(f"{name}{n}", times[n]) for n in (2, 1, 0) for name in "ba"]
    assert cursor is None


async def test_what_expired_before_1970_can_be_restored(backend):
    long_ago = datetime(1960, 1, 1, tzinfo=UTC)
    await backend.restore(Session("s", created_at=long_ago, updated_at=long_ago, expires_at=long_ago + DAY), [])
    assert await backend.heads([Head("s")]) == [None]
    assert await backend.purge_sessions() == 1


async def test_seqs_beyond_what_a_double_can_tell_apart(backend):
    first = 2**53
    messages = [say(str(number), seq=first + number) for number in range(4)]
    await backend.restore(Session("s", last_seq=first + 3, message_count=4), messages)
    (stored,) = await backend.append([turn("s", "4")])
    assert stored[0].seq == first + 4
    (found,) = await backend.read([Read("s", after=first, before=first + 3)])
    assert [message.seq for message in found] == [first + 1, first + 2]
    assert [message.content for message in await backend.pop("s", 2)] == ["3", "4"]


async def test_a_long_restore_comes_in_pieces_and_appears_at_once(backend, raw, keys):
    messages = [say(str(number), seq=number + 1) for number in range(2500)]
    await backend.restore(Session("s", last_seq=2500, message_count=2500), messages)
    (found,) = await backend.read([Read("s")])
    assert found == messages
    assert raw.pttl(keys.session("s").log) == -1
    assert not list(raw.scan_iter(match=f"{keys.prefix}*:new:*", count=1000))


async def test_a_scan_of_more_than_one_step(backend):
    await backend.write_items([SetItems("n", {f"k{number:05d}": number for number in range(3500)})])
    items = await backend.scan(Scan("n"))
    assert [item.value for item in items] == list(range(3500))
    backwards = await backend.scan(Scan("n", reverse=True, limit=2001, after="k03000"))
    assert [item.value for item in backwards] == list(range(2999, 998, -1))
    big = "x" * 2**20
    await backend.write_items([SetItems("big", {f"k{number}": big for number in range(6)})])
    assert [item.key for item in await backend.scan(Scan("big"))] == [f"k{number}" for number in range(6)]


async def test_what_cannot_be_read_concerns_those_who_ask_for_it(backend, raw, keys):
    await backend.append([turn("s", "one", user_id="u"), turn("t", "two")])
    await backend.write_items([SetItems("n", {"bad": 1, "good": 1})])
    names, item = keys.session("s"), keys.namespace("n").item + "bad"
    raw.set(item, "7 - {no json")
    bad, good = await backend.get_items([GetItems("n", ("bad",)), GetItems("n", ("good",))])
    assert isinstance(bad, errors.CorruptRecordError)
    assert good["good"].value == 1
    bad, good = await backend.write_items([Increment("n", "bad"), Increment("n", "good")])
    assert isinstance(bad, errors.CorruptRecordError)
    assert good == 2
    assert await backend.write_items([SetItems("n", {"bad": 2})]) == [8], "it can be replaced"
    raw.set(item, "rubbish")
    assert await backend.write_items([DeleteKeys("n", ("bad",))]) == [1 if raw.exists(item) else 0]
    assert not raw.exists(item)

    raw.zadd(names.log, {f"{seq_digits(9)}no json": 0})
    bad, good = await backend.read([Read("s"), Read("t")])
    assert isinstance(bad, errors.CorruptRecordError)
    assert [message.content for message in good] == ["two"]
    raw.set(names.head, "41 rubbish")
    bad, good = await backend.append([turn("s"), turn("t")])
    assert isinstance(bad, errors.CorruptRecordError)
    assert good[0].seq == 2
    with pytest.raises(errors.CorruptRecordError, match="'s'"):
        await backend.list_sessions(Listing())
    with pytest.raises(errors.CorruptRecordError):
        await backend.delete("s", user_id="u")
    assert await backend.delete("s")
    (stored,) = await backend.append([turn("s", "anew")])
    assert stored[0].seq == 42, "no seq comes twice"


async def test_a_store_of_a_newer_layout_is_not_touched(url, raw, keys):
    raw.set(keys.schema, 2)
    backend = make(url)
    with pytest.raises(errors.SchemaError, match="layout 2"):
        await backend.aopen()
    raw.set(keys.schema, "x")
    with pytest.raises(errors.CorruptRecordError):
        await backend.aopen()
    raw.delete(keys.schema)
    await backend.aopen()
    assert raw.get(keys.schema) == b"1"
    await backend.aclose()
