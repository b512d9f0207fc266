"""Where agentstore keeps what is its own: the user's data folder."""

from __future__ import annotations

import os
from pathlib import Path


def home(name: str) -> Path:
    """The folder of that name: in ``$AGENTSTORE_HOME``, else in the user's data folder for agentstore."""
    chosen = os.environ.get("AGENTSTORE_HOME")
    if not chosen:
        import platformdirs  # noqa: PLC0415  a sixth of the time that importing agentstore may take

        chosen = platformdirs.user_data_dir("agentstore", appauthor=False)
    return Path(chosen) / name
