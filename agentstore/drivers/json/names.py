"""File names for any id: readable, never shared, never outside their folder."""

from __future__ import annotations

import hashlib
import re

SUFFIX = ".jsonl"

_NOT_PLAIN = re.compile(r"[^a-z0-9_-]+")
_SLUG = 40
_HASH = 32


def file_name(name: str) -> str:
    """The log of a session or namespace: a slug for people, and 128 bits of a hash that make it the only one.

    Lower-case ASCII survives file systems that ignore case or normalise accents. The root namespace is ``""``.
    """
    slug = _NOT_PLAIN.sub("-", name.lower())[:_SLUG].strip("-") if name else "root"
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH]
    return f"{slug}-{digest}{SUFFIX}" if slug else digest + SUFFIX
