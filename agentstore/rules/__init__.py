"""The rules of the store as plain functions: what an operation means, given what is stored.

A driver reads what an operation touches, asks here, and writes down the answer, all in one transaction. So the
guarantees (order, once, ownership, expiry, versions) are spelt once for all backends.
"""

from .listings import listing_key, make_cursor, page, prefix_end, read_cursor
from .outcomes import each
from .sessions import (
    Numbering,
    Stored,
    Written,
    changed,
    check_owner,
    is_live,
    plan_appends,
    shortened,
    touched,
    ttl_of,
    visible,
)
from .state import StatePlan, named_keys

__all__ = [
    "Numbering",
    "StatePlan",
    "Stored",
    "Written",
    "changed",
    "check_owner",
    "each",
    "is_live",
    "listing_key",
    "make_cursor",
    "named_keys",
    "page",
    "plan_appends",
    "prefix_end",
    "read_cursor",
    "shortened",
    "touched",
    "ttl_of",
    "visible",
]
