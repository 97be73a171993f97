-- What every script starts with. SCHEMA, the newest schema number this statecar reads, is set by the line before.

-- Why a record or conversation cannot be used: false when it is missing or another tenant's (the two must look the
-- same), NEWER when a later statecar wrote it; nil and its schema when it can be used. `v` and `t` mean the same in every
-- schema.
local function refusal(key, tenant, turn)
  local r = redis.call('HMGET', key, 'v', 't', 'u')
  if r[2] ~= tenant or (turn and r[3] ~= turn) then return false end
  if tonumber(r[1]) > SCHEMA then return redis.status_reply('NEWER') end
  return nil, r[1]
end

-- Says that an item is not in a conversation of that schema: under a name made with a key that the caller has not got it
-- may be, where anything is wrapped.
local function absent(schema)
  return redis.status_reply(tonumber(schema) > 1 and 'UNSURE' or 'ABSENT')
end

-- Lets a conversation say that it needs this schema to be read.
local function needs(key, schema, now)
  if tonumber(schema) > tonumber(now) then redis.call('HSET', key, 'v', schema) end
end

-- Whose a record, a run or a conversation is, '' for nobody's.
local function owner(key)
  local r = redis.call('HMGET', key, 'a', 'a1', 'a2', 'a3')
  return (r[1] or '') .. (r[2] or '') .. (r[3] or '') .. (r[4] or '')
end

-- Gives a key at least so many seconds to live, 0 for ever; never shortens. `forever`: a key without an expiry keeps none.
local function prolong(key, ttl, forever)
  if ttl == 0 then
    redis.call('PERSIST', key)
  else
    local left = redis.call('TTL', key)
    if left >= 0 and left < ttl or left == -1 and not forever then redis.call('EXPIRE', key, ttl) end
  end
end

-- Whether a key expires within so many seconds.
local function ending(key, seconds)
  local left = redis.call('TTL', key)
  return left >= 0 and left < seconds
end

-- The logs of a history, newest first, each {name, length, gone}: the record's own, then whatever they branched from.
local function path(meta, name, length, gone)
  local logs = {}
  while name do
    logs[#logs + 1] = { name, length, gone }
    local parent = redis.call('HGET', meta, 'p:' .. name)
    name = nil
    if parent then name, length, gone = string.match(parent, '^([^|]*)|(%d+)|(.*)$') end
  end
  return logs
end

-- Entries [from, to) of a list; LRANGE alone would take -1 for the last.
local function entries(key, from, to)
  if to <= from then return {} end
  return redis.call('LRANGE', key, from, to - 1)
end

-- Positions [from, to) in the form of `gone`: '', '3' or '5-7'.
local function range(from, to)
  if to <= from then return '' end
  if to == from + 1 then return tostring(from) end
  return from .. '-' .. (to - 1)
end

-- Where an id stands in an index, by the first of its names ARGV[from] … ARGV[to] that is there.
local function named(index, from, to)
  for i = from, to do
    local position = redis.call('ZSCORE', index, ARGV[i])
    if position then return position end
  end
end

-- Which of the ids at ARGV[first], ARGV[first + step] …, each with so many names, are in the index already, or twice
-- among themselves; from 0.
local function taken(index, first, last, step, names)
  local found, seen = {}, {}
  for i = first, last, step do
    local id = ARGV[i]
    if seen[id] or named(index, i, i + names - 1) then found[#found + 1] = (i - first) / step end
    seen[id] = true
  end
  return found
end

-- Whether a run is still this holder's: its lease is, or has ended while nobody else took the run.
local function held(run, lease, token)
  local last = redis.call('HGET', run, 'w')
  return last == token and (redis.call('GET', lease) or token) == token
end

-- How many events a log has.
local function told(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '%-(%d+)$')) or 0
end

-- Adds the events ARGV[from] … ARGV[to] to a log that has so many, the first of them with that number, which is no
-- higher; those that are there stay as they are. Answers the bytes added.
local function tell(log, there, first, from, to)
  local size = 0
  for i = from, to do
    local number = first + 1 + i - from
    if number > there then
      redis.call('XADD', log, '0-' .. number, 'e', ARGV[i])
      size = size + #ARGV[i]
    end
  end
  return size
end

-- Lists a lineage until then ('+inf' for ever), or as long as it is listed already, and drops what was listed until now.
local function list_lineage(list, tag, untl, now)
  local there = redis.call('EXISTS', list) == 1
  redis.call('ZADD', list, 'GT', untl, tag)
  redis.call('ZREMRANGEBYSCORE', list, '-inf', '(' .. now)
  prolong(list, untl == '+inf' and 0 or tonumber(untl) - tonumber(now), there)
end

-- The bytes that a tenant has stored, '*' among those of its lineages; what has come to its end counts no more, but of
-- very many a thousand at a time.
local function lineage_bytes(bytes, ends, now)
  local ended = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 1000)
  for _, tag in ipairs(ended) do
    redis.call('HINCRBY', bytes, '*', -tonumber(redis.call('HGET', bytes, tag) or '0'))
    redis.call('HDEL', bytes, tag)
    redis.call('ZREM', ends, tag)
  end
  return tonumber(redis.call('HGET', bytes, '*') or '0')
end

-- Counts bytes in a lineage of a tenant, below 0 those that it has no more; a lineage without any is forgotten. With 0 what
-- is there counts for longer.
local function keep_bytes(bytes, ends, tag, many, ttl, now)
  local had = tonumber(redis.call('HGET', bytes, tag) or '0')
  if many < -had then many = -had end
  if had == 0 and many <= 0 then return end
  local all = redis.call('HINCRBY', bytes, '*', many)
  if redis.call('HINCRBY', bytes, tag, many) == 0 then
    redis.call('HDEL', bytes, tag)
    redis.call('ZREM', ends, tag)
    if all == 0 then redis.call('DEL', bytes) end
  elseif many >= 0 and (had == 0 or redis.call('ZSCORE', ends, tag)) then -- else what is there is kept for ever
    if ttl == 0 then redis.call('ZREM', ends, tag) else redis.call('ZADD', ends, 'GT', now + ttl, tag) end
    prolong(bytes, ttl)
    prolong(ends, ttl)
  end
end
