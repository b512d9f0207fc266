"""Conversations and state on MySQL and MariaDB."""

from .backend import MySQLBackend

__all__ = ["MySQLBackend"]
