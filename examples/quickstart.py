"""The quick start: run it twice, and the second run remembers the first.

AGENTSTORE_MODEL=offline python examples/quickstart.py
"""

from agentstore import Agent, db

agent = Agent(
    name="Assistant",
    instructions="You are a helpful assistant.",
    db=db(database_url="sqlite:///conversations.db"),
    session_id="my-session",
)

print(agent.chat("Hello!"))  # Automatically persisted
print(f"The session holds {len(agent.history())} messages.")
