"""``python -m agentstore`` is the `agentstore` command."""

from .cli import main

if __name__ == "__main__":
    main()
