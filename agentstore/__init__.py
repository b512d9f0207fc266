"""A persistence layer for AI agents: conversations and state on the database you already run."""
