"""A raw counterpart in the memory of the process: what the benchmark asks of one, and what it was asked."""

from collections import Counter, defaultdict


class FakeRaw:
    """Counts what it is asked; `loses` is called before each turn and tells whether it is forgotten."""

    def __init__(self, loses=lambda: False):
        self.asked = Counter()
        self.groups = 1
        self.largest = 0
        self._loses = loses
        self._logs = defaultdict(list)
        self._state = {}
        self.open = False

    async def aopen(self):
        self.open = True

    async def aclose(self):
        self.open = False
        self._logs.clear()
        self._state.clear()

    async def append(self, session_id, messages):
        self.asked["append"] += 1
        self._store(session_id, messages)

    async def append_group(self, turns):
        self.asked["group"] += 1
        self.largest = max(self.largest, len(turns))
        assert len({session_id for session_id, _ in turns}) == len(turns)
        for session_id, messages in turns:
            self._store(session_id, messages)

    def _store(self, session_id, messages):
        if not self._loses():
            self._logs[session_id] += messages

    async def last(self, session_id, limit):
        self.asked["last"] += 1
        return self._logs[session_id][-limit:]

    async def set(self, namespace, key, value):
        self.asked["set"] += 1
        self._state[namespace, key] = value
        return 1

    async def get(self, namespace, key):
        return self._state[namespace, key]

    async def insert(self, session_id, messages):
        self.asked["insert"] += 1
