"""The rules of the store as plain functions: what an operation means, given what is stored.

A driver reads what an operation touches, asks here, and writes down the answer, all in one transaction. So the
guarantees (order, once, ownership, expiry, versions) are spelt once for all backends.
"""

from .listings import listing_key, make_cursor, page, prefix_end, read_cursor
from .marks import Marks, advanced, marks_from_text, marks_to_text, passed
from .outcomes import each
from .repeating import repeatable
from .sessions import (
    Numbering,
    Stored,
    Written,
    changed,
    check_owner,
    is_live,
    plan_appends,
    rewritten,
    shortened,
    touched,
    ttl_of,
    visible,
)
from .state import StatePlan, named_keys, summand

__all__ = [
    "Marks",
    "Numbering",
    "StatePlan",
    "Stored",
    "Written",
    "advanced",
    "changed",
    "check_owner",
    "each",
    "is_live",
    "listing_key",
    "make_cursor",
    "marks_from_text",
    "marks_to_text",
    "named_keys",
    "page",
    "passed",
    "plan_appends",
    "prefix_end",
    "read_cursor",
    "repeatable",
    "rewritten",
    "shortened",
    "summand",
    "touched",
    "ttl_of",
    "visible",
]
