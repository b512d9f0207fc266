"""What is raised, and that every error of asyncpg has a meaning."""

import asyncio
import inspect
import traceback

import asyncpg
import pytest
from postgresql_kit import execute, make, turn, within

from agentstore.drivers.postgresql import errors
from agentstore.errors import (
    AgentstoreError,
    ClosedError,
    ConfigurationError,
    CorruptRecordError,
    InvalidInputError,
    MessageTooLargeError,
    UnavailableError,
)
from agentstore.protocol import Read, SetItems
from servers import authority
from servers.base import PASSWORD, free_port

pytestmark = pytest.mark.anyio

RAISED = [
    kind
    for kind in vars(asyncpg.exceptions).values()
    if inspect.isclass(kind) and issubclass(kind, Exception) and not issubclass(kind, Warning)
]


def test_there_is_something_to_map():
    assert len(RAISED) > 200


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_every_error_of_asyncpg_has_a_meaning(kind):
    error = kind("what it says")
    if not isinstance(error, errors.RAISED):
        assert issubclass(kind, asyncpg.PostgresMessage), "a warning, which nobody raises"
        return
    ours = errors.translated(error, "here")
    assert isinstance(ours, AgentstoreError)
    assert "here: " in str(ours)
    assert "what it says" in str(ours)
    state = getattr(kind, "sqlstate", None)
    assert state is None or state in errors.BY_STATE or state[:2] in errors.BY_STATE, "not even its class is known"


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (asyncpg.DiskFullError("x"), UnavailableError),
        (asyncpg.InsufficientPrivilegeError("x"), ConfigurationError),
        (asyncpg.TooManyConnectionsError("x"), UnavailableError),
        (asyncpg.ReadOnlySQLTransactionError("x"), UnavailableError),
        (asyncpg.ProgramLimitExceededError("x"), MessageTooLargeError),
        (asyncpg.CharacterNotInRepertoireError("x"), InvalidInputError),
        (asyncpg.UndefinedTableError("x"), CorruptRecordError),
        (asyncpg.ConnectionDoesNotExistError("x"), UnavailableError),
        (asyncpg.AdminShutdownError("x"), UnavailableError),
        (asyncpg.InterfaceError("x"), UnavailableError),
        (asyncpg.InternalClientError("x"), UnavailableError),
        (ConnectionResetError(), UnavailableError),
        (ConnectionError("PostgreSQL server at h rejected SSL upgrade"), ConfigurationError),
        (TimeoutError(), UnavailableError),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_some_mean(error, ours):
    assert type(errors.translated(error, "here")) is ours


async def refusal(url, **options):
    """What opening raises, which has no password in any text."""
    backend = make(url, **options)
    with pytest.raises(AgentstoreError) as caught:
        await backend.aopen()
    await backend.aclose()
    async with asyncio.timeout(20):
        loop = asyncio.get_running_loop()
        while any(transport._sock for transport in loop._transports.values()):  # asyncpg closes them in the background
            await asyncio.sleep(0.005)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert PASSWORD not in told
    assert "wrong-password" not in told
    assert caught.value.hint
    return caught.value


async def test_a_wrong_password(url):
    error = await refusal(within(url, password="wrong-password"))
    assert type(error) is ConfigurationError
    assert isinstance(error.__cause__, asyncpg.InvalidPasswordError)
    assert "%40 for @" in str(error)


async def test_an_unknown_user(url):
    assert type(await refusal(within(url, username="nobody"))) is ConfigurationError


async def test_an_unknown_database(url):
    error = await refusal(within(url, path="/nowhere"))
    assert type(error) is ConfigurationError
    assert "no such database" in str(error)


async def test_nobody_listens(url):
    error = await refusal(within(url, hosts=(("127.0.0.1", free_port()),)))
    assert type(error) is UnavailableError
    assert isinstance(error.__cause__, OSError)


async def test_an_unknown_host(url):
    assert type(await refusal(within(url, hosts=(("nowhere.invalid", None),)))) is UnavailableError


async def test_a_missing_socket(url, tmp_path):
    assert type(await refusal(within(url, hosts=(), options={"host": str(tmp_path)}))) is UnavailableError


async def test_tls_where_there_is_none(fresh):
    error = await refusal(within(fresh("pgbouncer"), options={"sslmode": "require"}))
    assert type(error) is ConfigurationError
    assert "TLS" in str(error)


async def test_a_certificate_that_nobody_vouches_for(url, tmp_path):
    authority.write_files(tmp_path)
    error = await refusal(within(url, options={"sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem")}))
    assert type(error) is ConfigurationError
    assert "TLS" in str(error)


async def test_a_file_that_is_no_certificate(url, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    error = await refusal(within(url, options={"sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem")}))
    assert type(error) is ConfigurationError


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_in_another_encoding(url, encoding):
    name = f"{within(url).rpartition('/')[2]}_{encoding.lower()}"
    execute(url, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    try:
        error = await refusal(within(url, path=f"/{name}"))
        assert type(error) is ConfigurationError
        assert "ENCODING 'UTF8'" in str(error)
    finally:
        execute(url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_user_without_rights(url):
    role = f"role_{url.rpartition('/')[2]}"
    execute(url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        guest = within(url, username=role, password="secret")
        error = await refusal(guest)  # nobody but its owner may make tables in "public"
        assert type(error) is ConfigurationError
        assert "?schema=NAME" in str(error)
        backend = make(url)
        await backend.aopen()
        await backend.aclose()
        error = await refusal(guest)  # nor see what is there
        assert type(error) is ConfigurationError
    finally:
        execute(url, f"DROP OWNED BY {role}")
        execute(url, f"DROP ROLE {role}")


async def test_a_server_that_takes_no_writes(url, backend):
    assert isinstance((await backend.append([turn("s", "before")]))[0], list)
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    other = make(within(url, options={"application_name": "other"}))
    await other.aopen()
    with pytest.raises(UnavailableError, match="takes no writes"):
        await other.append([turn("s")])
    with pytest.raises(UnavailableError, match="takes no writes"):
        await other.write_items([SetItems("n", {"k": 1})])
    (said,) = await other.read([Read("s")])
    assert [message.content for message in said] == ["before"]
    (finding,) = [finding for finding in await other.examine() if finding.subject == "role"]
    assert (finding.level, finding.value) == ("unfit", "primary, read only")
    await other.aclose()


async def test_an_empty_database_that_takes_no_writes(url):
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    error = await refusal(url)
    assert type(error) is UnavailableError
    assert "takes no writes" in str(error)


async def test_a_closed_backend(backend):
    await backend.aclose()
    for call in (backend.aopen, backend.ping, backend.examine, backend.purge_state):
        with pytest.raises(ClosedError):
            await call()
