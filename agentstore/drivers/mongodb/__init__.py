"""The MongoDB driver: conversations and state in documents, without transactions."""

from .backend import MongoDBBackend

__all__ = ["MongoDBBackend"]
