"""The heads that this process wrote last: they need not be read again as long as they are the ones that count."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentstore.records import copy_json

if TYPE_CHECKING:
    from agentstore.records import Session

    from .heads import Known
    from .numbers import Scale

_MOST = 4096
_LARGE = 4096  # characters of metadata: larger heads are not kept


@dataclass(frozen=True, slots=True)
class _Head:
    slot: int
    version: int
    session: Session
    scale: Scale


class Recent:
    """Heads by session, the last used last."""

    def __init__(self) -> None:
        self._heads: OrderedDict[str, _Head] = OrderedDict()

    def keep(self, known: Known, session: Session, slot: int, version: int) -> None:
        """Remember what was written."""
        if len(str(session.metadata)) > _LARGE:
            self._heads.pop(session.id, None)
            return
        own = replace(session, metadata=copy_json(session.metadata))  # what it was made of is the caller's
        self._heads[session.id] = _Head(slot, version, own, known.scale)
        self._heads.move_to_end(session.id)
        if len(self._heads) > _MOST:
            self._heads.popitem(last=False)

    def recall(self, known: Known) -> bool:
        """Complete what an index row says of a session; False if its head has to be read."""
        if known.is_gone:
            return True
        head = self._heads.get(known.session_id)
        if head is None or (head.slot, head.version) != (known.slot, known.version):
            return False
        known.scale = head.scale
        session = head.session
        known.decoded = session if session.last_seq == known.last_seq else replace(session, last_seq=known.last_seq)
        return True
