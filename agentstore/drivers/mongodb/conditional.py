"""The one atomic step: replace a document if its version is still the one that was read.

The condition stands in the filter of an *upsert*: where another writer was faster, the filter matches nothing, the
server tries to insert, and the `_id` that is there refuses it. So each of many replacements in one command answers for
itself, by the index of a duplicate-key error. (Without upsert a command tells only how many matched.) That is exact
for documents that are never deleted, or not within the time that a writer takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pymongo import UpdateOne

    from .client import Collection, Document

_DUPLICATE_KEY = 11000


async def replace(collection: Collection, documents: Mapping[str, tuple[Any, Document]]) -> set[str]:
    """Replace documents, in one command.

    Args:
        collection: Where.
        documents: By ``_id``: the ``version`` that must be there (None: no document), and what to put.

    Returns:
        The ``_id`` of those that another writer changed first; nothing was done to them.
    """
    return await write(
        collection,
        {
            name: ReplaceOne({"_id": name, "version": version}, document, upsert=True)
            for name, (version, document) in documents.items()
        },
    )


async def write(collection: Collection, upserts: Mapping[str, ReplaceOne[Document] | UpdateOne]) -> set[str]:
    """Make such changes, whose conditions stand in their filters beside the ``_id``; by ``_id``, as `replace`."""
    if not upserts:
        return set()
    names = list(upserts)
    try:
        await collection.bulk_write(list(upserts.values()), ordered=False)
    except BulkWriteError as error:
        failed = error.details["writeErrors"]
        if error.details.get("writeConcernErrors") or any(item["code"] != _DUPLICATE_KEY for item in failed):
            raise
        return {names[item["index"]] for item in failed}
    return set()
