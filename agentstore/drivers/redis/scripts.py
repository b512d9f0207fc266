"""The scripts that the server runs: each is one atomic step, which happens whole or not at all.

They compare and move texts; what an operation means was decided before (`agentstore.rules`), and no script parses JSON,
for Lua has no ints beyond 53 bits. A script that is not known to a server (NOSCRIPT) was not run.
"""

from __future__ import annotations

from hashlib import sha1

WRITE_SESSION = """
local head, last, log, ids, marks = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local version, was = ARGV[1], ARGV[2]
if version == '' then
  if redis.call('EXISTS', head) == 1 or (redis.call('GET', last) or '') ~= was then return 0 end
elseif redis.call('GETRANGE', head, 0, #version - 1) ~= version then
  return 0
end
local text, seq, expires, wipe, from, staged = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local planned, within, held = ARGV[9], ARGV[10], ARGV[11]
local marked, marking = ARGV[12], ARGV[13]
local dropped, added = tonumber(ARGV[14]), tonumber(ARGV[15])
if marking ~= '' and (redis.call('GET', marks) or '') ~= marked then return 0 end
if within ~= '' then
  local time = redis.call('TIME')
  if math.abs(time[1] * 1000000 + time[2] - tonumber(planned)) > tonumber(within) then return 0 end
end
if held ~= '' and redis.call('ZCARD', log) ~= tonumber(held) then return 0 end
if from ~= '' and redis.call('ZLEXCOUNT', log, '[' .. from, '+') ~= dropped then return 0 end
if wipe == '' then
  for i = 16 + dropped, 13 + dropped + 3 * added, 3 do
    local known = redis.call('HGET', ids, ARGV[i])
    if known then
      local digits = string.rep('0', 19 - #known) .. known
      if redis.call('ZLEXCOUNT', log, '[' .. digits, '[' .. digits .. '~') > 0 then return 0 end
    end
  end
end
if wipe == '1' then redis.call('UNLINK', log, ids) end
if staged ~= '' and wipe == '1' then
  redis.call('RENAME', log .. staged, log)
  redis.call('RENAME', ids .. staged, ids)
elseif staged ~= '' then
  local count = redis.call('ZCARD', log .. staged)
  if count == 0 then return redis.error_reply('ERR the staged messages are gone') end
  for i = 0, count - 1 do
    local record = redis.call('ZRANGE', log .. staged, i, i)[1]
    local digits = string.sub(record, 1, 19)
    redis.call('ZREMRANGEBYLEX', log, '[' .. digits, '[' .. digits .. '~')
    redis.call('ZADD', log, 0, record)
  end
  redis.call('UNLINK', log .. staged, ids .. staged)
end
if from ~= '' then redis.call('ZREMRANGEBYLEX', log, '[' .. from, '+') end
local at = 16
for _ = 1, dropped do
  redis.call('HDEL', ids, ARGV[at])
  at = at + 1
end
for _ = 1, added do
  redis.call('ZADD', log, 0, ARGV[at + 2])
  redis.call('HSET', ids, ARGV[at], ARGV[at + 1])
  at = at + 3
end
if seq ~= '' then redis.call('SET', last, seq) end
if marking ~= '' then redis.call('SET', marks, marking) end
if text == '' then
  redis.call('UNLINK', head)
elseif expires == '' then
  redis.call('SET', head, text)
  redis.call('PERSIST', log)
  redis.call('PERSIST', ids)
else
  redis.call('SET', head, text, 'PXAT', expires)
  redis.call('PEXPIREAT', log, expires)
  redis.call('PEXPIREAT', ids, expires)
end
while at < #ARGV do
  redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + tonumber(ARGV[at + 2])))
  at = at + 3 + tonumber(ARGV[at + 2])
end
return 1
"""
"""Write a session if it is at the version that was loaded: 1, or 0 if another writer came first.

KEYS: head, last seq, log, ids, marks, then those of listings. ARGV: the version that the head's text must begin with
(empty: there must be none); then the last seq that must be kept; the head's new text (empty: remove it); the last seq
to keep (empty: as it is); when all expires, in milliseconds (empty: never); whether the log goes first; from which
member on its end goes; the suffix of keys that take the log's place, or if it does not go, whose messages take the
place of those of their seqs; the time this was planned for, and how far it may be off, both in microseconds (empty: as
far as it likes); how many messages there must be (empty: any number); the marks that must be there if others come, and
those that come (empty: none do); how many ids go, which must be as many as the log's end has messages; how many
messages come, none of which may be there; the ids; id, seq and record of each message; then (command, number of a
listing's key, number of arguments, arguments) for each listing.
"""

FIND = """
local found = {redis.call('GET', KEYS[1])}
for i = 1, #ARGV do
  local seq = redis.call('HGET', KEYS[3], ARGV[i])
  if seq then
    local digits = string.rep('0', 19 - #seq) .. seq
    found[#found + 1] = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. digits, '[' .. digits .. '~')[1]
  end
end
return found
"""
"""A session's head, then the records of those of some messages that are there.

KEYS: head, log, ids. ARGV: ids of messages.
"""

WRITE_ITEMS = """
local names, versions, floor, marks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local count, marked, marking = tonumber(ARGV[1]), ARGV[4], ARGV[5]
if ARGV[2] ~= '-' and (redis.call('GET', floor) or '0') ~= ARGV[2] then return 0 end
if marking ~= '' and (redis.call('GET', marks) or '') ~= marked then return 0 end
for i = 1, count do
  local at = 6 + (i - 1) * 5
  local found = string.match(redis.call('GETRANGE', KEYS[4 + i], 0, 20), '^%d+')
  if (found or redis.call('HGET', versions, ARGV[at]) or '') ~= ARGV[at + 1] then return 0 end
end
for i = 1, count do
  local at = 6 + (i - 1) * 5
  local item, key, version, expires, text = KEYS[4 + i], ARGV[at], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if version == '' then
    redis.call('ZREM', names, key)
    redis.call('HDEL', versions, key)
    redis.call('UNLINK', item)
  else
    if expires == '' then
      redis.call('SET', item, text)
      redis.call('HDEL', versions, key)
    else
      redis.call('SET', item, text, 'PXAT', expires)
      redis.call('HSET', versions, key, version)
    end
    redis.call('ZADD', names, 0, key)
  end
end
if ARGV[3] ~= '' and tonumber(ARGV[3]) > tonumber(redis.call('GET', floor) or '0') then
  redis.call('SET', floor, ARGV[3])
end
if marking ~= '' then redis.call('SET', marks, marking) end
local at = 6 + count * 5
while at < #ARGV do
  redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + tonumber(ARGV[at + 2])))
  at = at + 3 + tonumber(ARGV[at + 2])
end
return 1
"""
"""Write keys of a namespace if all of them are at the versions that were loaded: 1, or 0 if another writer came first.

KEYS: names, versions, floor, marks, the items, then those of listings. ARGV: how many items; the floor that must be
there (-: any); what the floor must be at least from now on (empty: anything); the marks that must be there if others
come, and those that come (empty: none do); for each item its name, its version now (empty: none), its new version
(empty: remove it), when it expires, in milliseconds (empty: never), and its text; then the listings as in
`WRITE_SESSION`.
"""

SCAN = """
local found, size, after = {}, 0, ARGV[2]
local limit, most = tonumber(ARGV[5]), tonumber(ARGV[6])
local reverse, missing, read = ARGV[4] == '1', ARGV[7] == '1', redis.call
if missing then read = redis.pcall end
local live = 0
while live < limit do
  local keys
  if reverse then keys = redis.call('ZREVRANGEBYLEX', KEYS[1], after, ARGV[3], 'LIMIT', 0, 100)
  else keys = redis.call('ZRANGEBYLEX', KEYS[1], after, ARGV[3], 'LIMIT', 0, 100) end
  for _, key in ipairs(keys) do
    after = '(' .. key
    local text = read('GET', ARGV[1] .. key)
    if type(text) ~= 'string' then text = false end
    if text or missing then
      found[#found + 1] = key
      found[#found + 1] = text
      size = size + #key
    end
    if text then
      live = live + 1
      size = size + #text
    end
    if live >= limit or size > most then return {after, found} end
  end
  if #keys < 100 then return {'', found} end
end
return {after, found}
"""
"""Items in order, with what the next call begins at (empty: there are no more).

KEYS: names. ARGV: what an item's key begins with (its slot is theirs), where to begin, where to end, whether
backwards, how many at most, the bytes after which it is enough, and whether those that are not here shall be named too
(with null): while a slot moves, they may be on the other server.
"""

SOURCES = {
    sha1(source.encode(), usedforsecurity=False).hexdigest(): source
    for source in (WRITE_SESSION, FIND, WRITE_ITEMS, SCAN)
}
"""The scripts by the name that servers know them by."""

_NAMES = {source: digest for digest, source in SOURCES.items()}


def call(source: str, keys: list[str], *arguments: str | bytes | int) -> tuple[str | bytes | int, ...]:
    """The command that runs a script."""
    return ("EVALSHA", _NAMES[source], len(keys), *keys, *arguments)
