"""The schema of SQLite: migrations, indexes and keys."""

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from agentstore.drivers.sql import rows, schema, upgrade
from agentstore.drivers.sqlite import conversations
from agentstore.protocol import Append, Listing
from agentstore.records import Message

pytestmark = pytest.mark.anyio


async def test_the_migrations_lead_to_the_schema(path, backend):
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": upgrade.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_heads() == (upgrade.VERSION,)
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", "agentstore.drivers.sql:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [upgrade.VERSION]


def test_rows_name_the_columns_of_the_schema():
    assert set(rows.HEAD.split(", ")) == set(schema.sessions.columns.keys())
    assert set(rows.NEW_MESSAGE.split(", ")) == set(schema.messages.columns.keys())


@pytest.mark.parametrize(
    ("sql", "values", "index"),
    [
        (conversations._NEWEST, ("s", 0, 9, 5), "PRIMARY KEY"),
        (conversations._NAMED, ("[1]",), "agentstore_messages_by_id"),
    ],
)
async def test_hot_statements_use_their_index(backend, sql, values, index):
    plan = await backend._reader.run(lambda c: c.execute("EXPLAIN QUERY PLAN " + sql, values).fetchall())
    search = next(row[3] for row in plan if row[3].startswith("SEARCH agentstore_messages"))
    assert index.replace("PRIMARY KEY", "sqlite_autoindex_agentstore_messages_1") in search
    assert not [row for row in plan if "TEMP B-TREE FOR ORDER BY" in row[3] or row[3].startswith("SCAN agentstore")]


@pytest.mark.parametrize(("user_id", "index"), [(None, "by_time"), ("u", "by_user")])
@pytest.mark.parametrize("further", [False, True])
async def test_listings_walk_an_index(backend, user_id, index, further):
    for number in range(3):
        await backend.append([Append(f"s{number}", user_id="u")])
    cursor = (await backend.list_sessions(Listing(limit=1))).next_cursor if further else None
    said = []

    def plan(connection):
        connection.set_trace_callback(said.append)
        conversations.list_sessions(connection, Listing(user_id=user_id, cursor=cursor))
        connection.set_trace_callback(None)
        return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + said[-1])]

    steps = await backend._reader.run(plan)
    assert f"USING INDEX agentstore_sessions_{index}" in steps[0]
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps


def test_id_keys_of_uuid7_grow_and_tell_sessions_apart():
    early, late = "01890000-0000-7000-8000-000000000000", "01890000-0040-7000-8000-000000000000"
    assert 0 < rows.id_key("s", early) < rows.id_key("s", late) < 2**63
    assert rows.id_key("s", early) != rows.id_key("t", early)
    assert rows.id_key("s", early) != rows.id_key("s", early[:-1] + "1")
    for odd in (
        "x",
        "é",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "zzzzzzzz-zzzz-7zzz-bzzz-zzzzzzzzzzzz",
        "-" * 14 + "7" * 22,
    ):
        assert -(2**63) <= rows.id_key("s", odd) < 2**63


async def test_equal_id_keys_do_not_make_messages_equal(backend, monkeypatch):
    monkeypatch.setattr(rows, "id_key", lambda _session_id, _message_id: 7)
    one, two = Message("user", "1", id="a"), Message("user", "2", id="b")
    assert (await backend.append([Append("s", (one,))]))[0][0].seq == 1
    assert (await backend.append([Append("s", (two,))]))[0][0].seq == 2
    assert (await backend.append([Append("t", (one,))]))[0][0].seq == 1
    (again,) = await backend.append([Append("s", (one, two))])
    assert [(m.content, m.seq) for m in again] == [("1", 1), ("2", 2)]
