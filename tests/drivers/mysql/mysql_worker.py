"""One of several processes on one database: ``mysql_worker.py URL JOB NUMBER COUNT`` prints a result as JSON."""

import asyncio
import json
import random
import sys

from agentstore import Message, db


async def append(database, number, count):
    for step in range(count):
        await database.append("s", Message("user", f"{number}:{step}"))


async def many_sessions(database, number, count):
    for step in range(count):
        names = random.sample(range(40), 40)
        await asyncio.gather(*(database.append(f"s{n}", Message("user", f"{number}:{step}")) for n in names))


async def many_keys(database, number, count):
    scopes = [database.state.scope(f"n{n}") for n in range(4)]
    for step in range(count):
        calls = []
        for scope in random.sample(scopes, 4):
            keys = random.sample([f"k{n}" for n in range(8)], 4)
            calls += [scope.set_many(dict.fromkeys(keys, step)), scope.delete(keys[0]), scope.increment("n")]
        await asyncio.gather(*calls)


async def come_and_go(database, number, count):
    versions = []
    while len(versions) < count:
        versions.append(await database.state.set("k", number))
        if random.random() < 0.5:
            await database.state.delete("k")
    return versions


async def set_many(database, number, count):
    seen = 0
    for step in range(count):
        await database.state.set_many(dict.fromkeys("abc", f"{number}:{step}"))
        found = await database.state.get_many(list("abc"))
        assert len(set(found.values())) == 1, found
        seen += 1
    return seen


async def main(url, job, number, count):
    async with db(url) as database:
        return await globals()[job](database, int(number), int(count))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
