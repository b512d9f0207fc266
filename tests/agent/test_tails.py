"""A session's end is read once and then kept, for as long as nobody else changes the session."""

from dataclasses import replace

import pytest
from agent_kit import Scripted, told

from agentstore import AccessDeniedError, Message, Session, db
from agentstore.agent import Agent
from agentstore.records import utcnow
from agentstore.tails import Tails

pytestmark = pytest.mark.anyio


@pytest.fixture
def reads(database):
    """The limits of the reads so far."""
    seen = []
    messages = database.messages

    async def noted(session_id, **bounds):
        seen.append(bounds["limit"])
        return await messages(session_id, **bounds)

    database.messages = noted
    return seen


def answers(count):
    return [f"answer {number}" for number in range(count)]


async def talk(agent, count, first=0):
    for number in range(first, first + count):
        assert await agent.achat(f"prompt {number}") == f"answer {number}"


async def test_what_a_turn_leaves_is_not_read_again(database, reads):
    model = Scripted(*answers(5))
    await talk(Agent("A", model=model, db=database, session_id="s"), 5)
    assert len(reads) == 1  # by the second turn: the first found no session
    stored = await database.messages("s", limit=None)
    assert told(model.seen[4]) == told(stored[:9])


async def test_only_as_much_is_kept_as_the_model_sees(database, reads):
    model = Scripted(*answers(9))
    await talk(Agent("A", model=model, db=database, session_id="s", history_limit=4), 5)
    assert told(model.seen[4]) == [
        *(("user", "prompt 2"), ("assistant", "answer 2"), ("user", "prompt 3"), ("assistant", "answer 3")),
        ("user", "prompt 4"),
    ]
    more = Agent("B", model=model, db=database, session_id="s", history_limit=6)
    reads.clear()
    await talk(more, 2, first=5)
    assert reads == [6]
    assert [message.content for message in model.seen[5]][::2] == [f"prompt {n}" for n in range(2, 6)]
    assert [message.content for message in model.seen[6]][::2] == [f"prompt {n}" for n in range(3, 7)]


async def change_by_append(database):
    await database.append("s", Message("user", "from elsewhere"))


async def change_by_pop(database):
    await database.pop("s")


async def change_by_clear(database):
    await database.clear("s")


async def change_by_delete(database):
    await database.delete_session("s")


async def change_by_new_session(database):
    last_seq = (await database.session("s")).last_seq
    await database.delete_session("s")
    await database.append("s", [])
    assert (await database.session("s")).last_seq == last_seq


@pytest.mark.parametrize(
    "change", [change_by_append, change_by_pop, change_by_clear, change_by_delete, change_by_new_session]
)
async def test_what_others_change_is_seen(database, change):
    model = Scripted(*answers(4))
    agent = Agent("A", model=model, db=database, session_id="s")
    await talk(agent, 3)
    await change(database)
    expected = told(await database.messages("s"))
    await agent.achat("and now?")
    assert told(model.seen[3])[-1] == ("user", "and now?")
    first_user = next((index for index, (role, _) in enumerate(expected) if role == "user"), len(expected))
    assert told(model.seen[3])[:-1] == expected[first_user:]


async def test_what_came_between_the_read_and_the_save_is_seen_by_the_next_turn(database):
    agent = Agent("A", model=lambda messages: f"{len(messages)} seen", db=database, session_id="s")
    await agent.achat("one")
    session = database.session

    async def overtaken(session_id, **who):
        head = await session(session_id, **who)
        database.session = session
        await database.append(session_id, Message("user", "from elsewhere"))
        return head

    database.session = overtaken
    assert await agent.achat("two") == "4 seen"
    assert await agent.achat("three") == "6 seen"


async def test_whose_it_is_is_asked_each_time(database):
    agent = Agent("A", model=Scripted(*answers(2)), db=database, session_id="s", user_id="u")
    await talk(agent, 2)
    with pytest.raises(AccessDeniedError):
        await agent.achat("let me see", user_id="v")


async def test_what_a_model_does_to_its_messages_stays_there(database):
    async def model(messages):
        for message in messages:
            message.metadata["seen"] = True
            if isinstance(message.content, list):
                message.content.append("more")
        return Message("assistant", [{"text": f"{len(messages)}"}], metadata={"mood": "good"})

    agent = Agent("A", model=model, db=database, session_id="s")
    for prompt in "abc":
        await agent.achat([{"text": prompt}])
    stored = await database.messages("s")
    await agent.achat([{"text": "d"}])
    head = await database.session("s")
    kept = database.tails.newest(head, 8)
    assert kept == await database.messages("s")
    assert kept[:6] == stored


async def test_pending_messages_are_seen_in_memory_durability(tmp_path):
    async with db(f"sqlite:///{tmp_path}/x.db", durability="memory") as database:
        await database.append("s", [Message("user", "before"), Message("assistant", "yes")])
        await database.flush()
        model = Scripted(*answers(4))
        agent = Agent("A", model=model, db=database, session_id="s")
        await talk(agent, 2)
        await database.flush()
        await talk(agent, 2, first=2)
        assert [len(seen) for seen in model.seen] == [3, 5, 7, 9]


def test_room_is_bounded(monkeypatch):
    monkeypatch.setattr("agentstore.tails._ROOM", 10_000)
    monkeypatch.setattr("agentstore.tails._LARGE", 4_000)
    tails = Tails()
    head = Session("0", created_at=utcnow())
    for number in range(10):
        tails.keep(replace(head, id=str(number)), [], [Message("user", "x" * 1_000, seq=1)], 10)
    after = replace(head, last_seq=1, message_count=1)
    held = [number for number in range(10) if tails.newest(replace(after, id=str(number)), 10)]
    assert held == [2, 3, 4, 5, 6, 7, 8, 9]
    tails.keep(replace(head, id="large"), [], [Message("user", "x" * 4_000, seq=1)], 10)
    assert tails.newest(replace(after, id="large"), 10) is None
    tails.keep(replace(head, id="calls"), [], [Message("user", "x", metadata={"k": "x" * 4_000}, seq=1)], 10)
    assert tails.newest(replace(after, id="calls"), 10) is None
