"""Peers that behave in one way each, over files of JSON lines."""

import json
import os
import sys
from pathlib import Path


class Honest:
    """Keeps all."""

    def __init__(self, url: str) -> None:
        self.folder = Path(url.removeprefix("sqlite:///")).with_suffix("")

    async def aopen(self) -> dict[str, str]:
        self.folder.mkdir(exist_ok=True)
        sys.stdout.write("whatever a peer prints is no answer\n")
        return {"durability": "none"}

    async def append(self, session: str, user: str, assistant: str) -> None:
        with (self.folder / session).open("a") as file:
            file.write(json.dumps(user) + "\n" + json.dumps(assistant) + "\n")

    async def last(self, session: str, limit: int | None) -> list[str]:
        lines = (self.folder / session).read_text().splitlines()
        return [json.loads(line) for line in (lines if limit is None else lines[-limit:])]

    async def aclose(self) -> None:
        pass


class Bad(Honest):
    """Forgets the second turn of a session, raises at the third, gives the oldest messages for the newest."""

    async def append(self, session: str, user: str, assistant: str) -> None:
        number = -1 if session.startswith("read") else int(user[:8]) // 2
        if number == 2:
            raise OSError("the store is locked")
        if number != 1:
            await super().append(session, user, assistant)

    async def last(self, session: str, limit: int | None) -> list[str]:
        return (await super().last(session, None))[:limit]


class Dies(Honest):
    """Ends its process at the first turn."""

    async def append(self, session: str, user: str, assistant: str) -> None:
        os.write(2, b"Fatal: no more\n")
        os._exit(3)


class Unwilling(Honest):
    """Cannot be opened."""

    async def aopen(self) -> dict[str, str]:
        raise ValueError("VARCHAR requires a length")


STORES = {kind.__name__.lower(): kind for kind in (Honest, Bad, Dies, Unwilling)}
