"""Conversations and state in PostgreSQL, directly or through PgBouncer."""

from .backend import PostgreSQLBackend

__all__ = ["PostgreSQLBackend"]
