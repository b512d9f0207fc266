"""Who is measured beside agentstore, on which backend."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rival:
    """A peer's store.

    Attributes:
        backend: Where it keeps conversations.
        peer: Its script in `peers/`, and its file in `requirements/`.
        store: Its name in the script's ``STORES``.
        name: What the page calls it.
        less: What it does not promise, if it promises less than agentstore.
        tuned: What was done for it that it does not do itself, nor tells its users to do.
    """

    backend: str
    peer: str
    store: str
    name: str
    less: str = ""
    tuned: str = ""


RIVALS = (
    Rival("sqlite", "praisonai", "sqlite", "PraisonAI AsyncSQLiteConversationStore"),
    Rival(
        *("sqlite", "praisonai", "sqlite-wal", "PraisonAI AsyncSQLiteConversationStore, tuned"),
        tuned="the file was put into WAL mode before",
    ),
    Rival("sqlite", "openai_agents", "sqlite-session", "OpenAI Agents SQLiteSession"),
    Rival("sqlite", "openai_agents", "sqlalchemy-sqlite", "OpenAI Agents SQLAlchemySession"),
    Rival("sqlite", "langgraph", "sqlite", "LangGraph AsyncSqliteSaver"),
    Rival("sqlite", "adk", "sqlite", "ADK DatabaseSessionService"),
    Rival("postgresql", "praisonai", "postgresql", "PraisonAI AsyncPostgresConversationStore"),
    Rival("postgresql", "openai_agents", "sqlalchemy-postgresql", "OpenAI Agents SQLAlchemySession"),
    Rival("postgresql", "langgraph", "postgresql", "LangGraph AsyncPostgresSaver"),
    Rival("postgresql", "adk", "postgresql", "ADK DatabaseSessionService"),
    Rival("mysql", "praisonai", "mysql", "PraisonAI AsyncMySQLConversationStore"),
    Rival("mysql", "openai_agents", "sqlalchemy-mysql", "OpenAI Agents SQLAlchemySession"),
    Rival("mysql", "adk", "mysql", "ADK DatabaseSessionService"),
    Rival("redis", "openai_agents", "redis", "OpenAI Agents RedisSession"),
    Rival("redis", "langchain", "redis", "LangChain RedisChatMessageHistory"),
    Rival("json", "praisonai", "json", "PraisonAI DefaultSessionStore", less="no fsync"),
)
