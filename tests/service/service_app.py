"""The example's service with a model for its tests: ``uvicorn --factory service_app:create``."""

import asyncio
import os
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from fastapi_service import create_app

from agentstore.llm import Model

SECONDS = float(os.environ.get("MODEL_SECONDS") or 0)
FOLDER = Path(os.environ["MODEL_FOLDER"])


class Telling(Model):
    """No two answers are equal. Told to hold, it waits for a file; told to stall, it gives two pieces, no more."""

    async def complete(self, messages, tools):
        await asyncio.sleep(SECONDS)
        if messages[-1].content == "hold":
            (FOLDER / "held").touch()
            while not (FOLDER / "go on").exists():
                await asyncio.sleep(0.01)
        return f"answer {uuid.uuid4()} to {messages[-1].content}"

    async def stream(self, messages, tools):
        yield "one "
        yield "two "
        if messages[-1].content == "stall":
            await asyncio.Event().wait()
        yield "three"


def create():
    return create_app(model=Telling())
