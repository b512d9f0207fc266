"""The folder of JSON files: its format, its lock, its end."""

import filelock
import pytest
from json_kit import add, backend, texts

from agentstore.drivers.json import JSONBackend
from agentstore.errors import ClosedError, ConfigurationError, CorruptRecordError, SchemaError, UnavailableError
from agentstore.options import PoolOptions
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio


async def test_a_newer_format_is_refused_and_left_alone(folder):
    folder.mkdir()
    (folder / "agentstore.json").write_text('{"format": 2}')
    store = backend(folder)
    with pytest.raises(SchemaError, match="newer"):
        await store.aopen()
    await store.aclose()
    assert {path.name for path in folder.iterdir()} <= {"agentstore.json", ".lock"}


@pytest.mark.parametrize("text", ["", "x", "[]", "{}"])
async def test_an_unreadable_format_is_reported(folder, text):
    folder.mkdir()
    (folder / "agentstore.json").write_text(text)
    store = backend(folder)
    with pytest.raises(CorruptRecordError, match=r"agentstore\.json"):
        await store.aopen()
    await store.aclose()


@pytest.mark.parametrize("below", ["", "a", "a/b"])
async def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path, below):
    (tmp_path / "file").write_text("")
    store = backend(tmp_path / "file" / below)
    with pytest.raises(UnavailableError, match="choose another") as caught:
        await store.aopen()
    assert isinstance(caught.value.__cause__, OSError)
    await store.aclose()


async def test_the_folder_is_private_and_made_with_its_parents(tmp_path):
    store = backend(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    await store.aopen()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    await store.aclose()


def test_an_empty_path_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="json:///folder"):
        JSONBackend(StoreURL.parse("json:///"), PoolOptions())


async def test_a_lock_that_is_held_is_waited_for_then_reported(folder, store):
    await add(store, "s", "one")
    hasty = backend(folder, statement_timeout=0.05)
    await hasty.aopen()
    with filelock.FileLock(folder / ".lock"):
        with pytest.raises(UnavailableError, match=r"\.lock"):
            await add(hasty, "s", "two")
        assert await texts(hasty, "s") == ["one"]
    await add(hasty, "s", "two")
    await hasty.aclose()


async def test_closed_is_closed(store):
    await add(store, "s", "one")
    await store.aclose()
    await store.aclose()
    for call in (store.aopen(), store.ping(), store.append([]), store.read([])):
        with pytest.raises(ClosedError):
            await call
