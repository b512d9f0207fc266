"""How far a master has come in the stream of writes that it sends its replicas, and whether one has come as far.

A replica answers that question together with what it is asked, in the same round trip, so it counts for that very
answer: a replica that was restarted may begin with nothing, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentstore.errors import ConfigurationError, UnavailableError
from agentstore.protocol import LaggingError

from .client import Command
from .opening import facts
from .wire import checked

if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import Wire

_QUESTION = ("INFO", "replication")


async def position(wire: Wire) -> str | None:
    """The stream's id, and how many bytes of it there are: those of all that the master has answered among them."""
    (answer,) = await wire.ask(Command(wire.keys.schema, _QUESTION))
    known = facts(answer)
    if known.get("role") != "master" or "master_replid" not in known:
        return None
    return f"{known['master_replid']}:{known['master_repl_offset']}"


class Following:
    """What a replica is asked before all else.

    Args:
        wire: Leads to it.
        primary: Leads to its master.
        required: Tells which position it must have reached.

    Raises:
        ConfigurationError: It cannot be a replica of that master.
    """

    def __init__(self, wire: Wire, primary: Wire, required: Callable[[], str | None]) -> None:
        ours, theirs = wire.place, primary.place
        if theirs.mode == "cluster":
            raise ConfigurationError(
                f"{theirs.text} can have no replicas: a cluster has many masters, each with replicas of its own",
                hint="Leave replicas out",
            )
        if ours.mode != "single":
            raise ConfigurationError(f"{ours.text} names no server", hint="Give each replica a redis: URL of its own")
        if (ours.database, ours.prefix) != (theirs.database, theirs.prefix):
            raise ConfigurationError(f"{ours.text} names another database or prefix than its master, {theirs.text}")
        self.question = Command(wire.keys.schema, _QUESTION)
        self._text = ours.text
        self._required = required

    def check(self, answer: Any) -> None:
        """Let pass if the replica is as far.

        Raises:
            LaggingError: It is not.
            UnavailableError: It is no replica.
            AgentstoreError: The answer is this error.
        """
        known, required = facts(checked(answer)), self._required()
        if known.get("role") != "slave":
            raise UnavailableError(f"{self._text} is no replica: it takes writes of its own, or has been promoted")
        if required is None:
            return
        stream, offset = required.split(":")
        if known.get("master_replid") != stream or int(known.get("slave_repl_offset", -1)) < int(offset):
            raise LaggingError(f"{self._text} is not as far as its master was")
