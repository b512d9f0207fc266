"""What a look at a backend brings to light: for ``agentstore doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .records import Plain

Level: TypeAlias = Literal["ok", "warning", "unfit"]


@dataclass(frozen=True, slots=True)
class Finding(Plain):
    """One thing found.

    Attributes:
        subject: What was looked at (``server``, ``schema``, ``fsync`` ...).
        value: How it stands, in words or figures; never a password.
        level: ``ok``; ``warning``: it works, but promises less than it could (a commit that may be lost, say);
            ``unfit``: do not use it so.
        advice: What to do; None where nothing is to be done.
    """

    subject: str
    value: str
    level: Level = "ok"
    advice: str | None = None
