"""Inserting, and remembering what was inserted in vain: an INSERT whose answer was lost may land at any later time."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentstore.errors import CorruptRecordError, InvalidInputError, UnavailableError
from agentstore.rules.outcomes import UNEXPECTED

from .schema import COLUMNS, STATE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .heads import Known
    from .link import Link, Row

_MOST = 4096  # sessions
_SESSION_ID, _SEQ, _VERSION = 1, 4, 5  # columns of the log
_STATE_VERSION = 3


class Sent:
    """The highest numbers of this process's failed INSERTs: none of them is given again.

    Attributes:
        version: Of rows of the log.
        state: The highest version of rows of the state.
    """

    __slots__ = ("_others", "_seqs", "state", "version")

    def __init__(self) -> None:
        self.version = self.state = 0
        self._seqs: OrderedDict[str, int] = OrderedDict()
        self._others = 0  # of sessions no longer told apart

    def note(self, block: Iterable[Row]) -> None:
        """Rows of the log may yet be stored."""
        for row in block:
            self.version = max(self.version, row[_VERSION])
            session_id = row[_SESSION_ID]
            self._seqs[session_id] = max(row[_SEQ], self._seqs.get(session_id, 0))
            self._seqs.move_to_end(session_id)
        while len(self._seqs) > _MOST:
            self._others = max(self._others, self._seqs.popitem(last=False)[1])

    def tell(self, sessions: Iterable[Known]) -> None:
        """Complete what the log says of sessions that are to be written."""
        for known in sessions:
            known.sent_seq = self._seqs.get(known.session_id, self._others)
            known.sent_version = self.version


async def insert(link: Link, sent: Sent, block: Sequence[Row]) -> None:
    """Insert a block into the log."""
    with may_be_stored():
        try:
            await link.insert("agentstore_log", COLUMNS, block)
        except BaseException:
            sent.note(block)
            raise


async def insert_state(link: Link, sent: Sent, block: Sequence[Row]) -> None:
    """Insert a block into the state."""
    with may_be_stored():
        try:
            await link.insert("agentstore_state", STATE_COLUMNS, block)
        except BaseException:
            sent.state = max(sent.state, *(row[_STATE_VERSION] for row in block))
            raise


class SentError(Exception):
    """Carries an error that came after an INSERT was sent: what was planned must not be run again."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def may_be_stored() -> Iterator[None]:
    """Around an INSERT, and what follows it: keep `isolation` from running it again."""
    try:
        yield
    except (CorruptRecordError, InvalidInputError) as error:
        raise SentError(error) from error
    except UNEXPECTED as error:
        raise UnavailableError(
            f"the answer to an INSERT cannot be understood ({type(error).__name__}: {error}):"
            " what was being written may be stored or not",
            hint="Try again: message ids keep an append from being stored twice",
            answered=True,
        ) from error
