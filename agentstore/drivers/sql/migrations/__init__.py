"""Alembic's migrations of the shared schema."""
