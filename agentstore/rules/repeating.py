"""Which writes may come a second time, where nobody knows whether the first was stored."""

from __future__ import annotations

from agentstore.protocol import Append, Expire, SetItems, StateOp


def repeatable(op: Append | StateOp) -> bool:
    """Whether it changes nothing more, and answers as if it had come once.

    Ids keep an append from being stored twice, and what is stored whole succeeds whatever `expected_seq` says. Only
    without messages there are no ids by which it would be known.
    """
    if isinstance(op, Append):
        return bool(op.messages) or op.expected_seq is None
    return isinstance(op, Expire) or (isinstance(op, SetItems) and op.if_version is None)
