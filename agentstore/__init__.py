"""A persistence layer for AI agents: conversations and state on the database you already run."""

from . import errors
from .agent import Agent
from .database import Database, DefaultSessionStore, db
from .errors import (
    AccessDeniedError,
    AgentstoreError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    CorruptRecordError,
    InvalidInputError,
    MessageTooLargeError,
    PoolTimeoutError,
    QueueFullError,
    SchemaError,
    SessionNotFoundError,
    UnavailableError,
)
from .llm import Model
from .options import PoolOptions, QueueOptions, RetryOptions
from .records import Message, Page, Session, StateItem, ToolCall
from .state import StateScope
from .stats import Stats

__all__ = [
    "AccessDeniedError",
    "Agent",
    "AgentstoreError",
    "ClosedError",
    "ConfigurationError",
    "ConflictError",
    "CorruptRecordError",
    "Database",
    "DefaultSessionStore",
    "InvalidInputError",
    "Message",
    "MessageTooLargeError",
    "Model",
    "Page",
    "PoolOptions",
    "PoolTimeoutError",
    "QueueFullError",
    "QueueOptions",
    "RetryOptions",
    "SchemaError",
    "Session",
    "SessionNotFoundError",
    "StateItem",
    "StateScope",
    "Stats",
    "ToolCall",
    "UnavailableError",
    "db",
    "errors",
]
