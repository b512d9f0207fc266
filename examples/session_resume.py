"""A session resumed by another process: this program calls itself.

AGENTSTORE_MODEL=offline python examples/session_resume.py
"""

import subprocess
import sys

from agentstore import Agent, db

with db("sqlite:///conversations.db") as database:
    agent = Agent(name="Assistant", db=database, session_id="user-123")
    if "--resume" in sys.argv:
        print(agent.chat("What's my name?"))
    else:
        print(agent.chat("My name is Alice"))

if "--resume" not in sys.argv:
    subprocess.run([sys.executable, __file__, "--resume"], check=True)  # noqa: S603  this very program
