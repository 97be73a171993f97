-- Saves a finished response in one step: items, record, texts, TTLs, and in a conversation its index and its lock.
-- Where its items go is decided here: onto the log it continues when that still has the length it was read with, or in
-- a conversation always onto the conversation's end; else into a log of its own that points back at what was read.
-- Nothing is written unless all of it is. Sent twice it is applied once: a record that is there is the earlier answer,
-- but for a run only where the same lease wrote it (`w`); else another process has ended it.
-- KEYS 1 record, 2 the log it continues (its own for a new lineage), 3 its own log, 4 meta, 5 texts;
--      in a conversation then conversation, index, lock; at the end of a run then run, lease, events
-- ARGV 1 turn, 2 name of the log it continues or '', 3 the length that had, 4 gone of what was read, 5 '1' to append, 'x' for a
--      cancelled one, else '0',
--      6 record ttl, 7 ttl of log, meta and texts, 8 conversation ttl, 9 lock token,
--      10 items of carried context, 11 of input, 12 of output, 13 count of record arguments, 14 of text arguments,
--      15 the run's lease token, 16 ttl of its log, 17 number of its first event here, 18 count of events,
--      19 count of names that an id has,
--      then record fields and values (at most 900, first the schema), texts by hash, events, items, and in a conversation
--      the names of their ids
-- Answers SAVED; LOST: the lock is not ours any more; ORPHAN: what it continues has expired; {ids taken, from 0};
-- for a run TAKEN: it is not ours any more, or events that we told before are not there; or CANCELLED: it can only be
-- saved as that
local turn, parent, length, gone = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local before, input, output = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local texts_at = 20 + tonumber(ARGV[13])
local events_at = texts_at + tonumber(ARGV[14])
local items_at = events_at + tonumber(ARGV[18])
local ids_at = items_at + before + input + output
local names = tonumber(ARGV[19])
local locked = ARGV[9] ~= ''
local run = locked and 9 or 6
if redis.call('EXISTS', KEYS[1]) == 1 then
  if KEYS[run] and redis.call('HGET', KEYS[1], 'w') ~= ARGV[15] then return redis.status_reply('TAKEN') end
  return redis.status_reply('SAVED')
end
local here = redis.call('LLEN', KEYS[2])
if KEYS[run] then
  if not held(KEYS[run], KEYS[run + 1], ARGV[15]) then return redis.status_reply('TAKEN') end
  if ARGV[18] ~= '0' and tonumber(ARGV[17]) > told(KEYS[run + 2]) then return redis.status_reply('TAKEN') end
  if ARGV[5] ~= 'x' and redis.call('HEXISTS', KEYS[run], 'x') == 1 then return redis.status_reply('CANCELLED') end
end
if here < length then return redis.status_reply('ORPHAN') end

local append = ARGV[5] == '1'
local talk = append and locked and redis.call('EXISTS', KEYS[6]) == 1
local log, name, base = KEYS[3], turn, 0
if talk then
  if redis.call('GET', KEYS[8]) ~= ARGV[9] then return redis.status_reply('LOST') end
  local clash = taken(KEYS[7], ids_at, #ARGV, names, names)
  if #clash > 0 then return clash end
  -- what others added since the history was read stands before this turn, but its model never saw it
  local missed = range(length, here)
  if missed ~= '' then gone = gone == '' and missed or gone .. ',' .. missed end
  log, name, base = KEYS[2], parent, here
elseif append and not locked and parent ~= '' and here == length then
  log, name, base = KEYS[2], parent, here
end

if name == turn and parent ~= '' then
  redis.call('HSET', KEYS[4], 'p:' .. turn, parent .. '|' .. length .. '|' .. gone)
  local floor = tonumber(redis.call('HGET', KEYS[4], 'f:' .. parent) or '0')
  if length > floor then redis.call('HSET', KEYS[4], 'f:' .. parent, length) end
  gone = ''
end
for i = items_at, ids_at - 1 do redis.call('RPUSH', log, ARGV[i]) end
for i = texts_at, events_at - 1, 2 do redis.call('HSETNX', KEYS[5], ARGV[i], ARGV[i + 1]) end
local start = base + before
redis.call('HSET', KEYS[1], 'l', name, 's', start, 'p', start + input, 'e', start + input + output,
  unpack(ARGV, 20, texts_at - 1))
if gone ~= '' then redis.call('HSET', KEYS[1], 'g', gone) end

local ttl, rest, conversation_ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
prolong(KEYS[1], ttl)
prolong(KEYS[4], rest)
prolong(KEYS[5], rest)
if talk then
  for i = ids_at, #ARGV, names do redis.call('ZADD', KEYS[7], base + (i - ids_at) / names, ARGV[i]) end
  if tonumber(ARGV[21]) > 1 then needs(KEYS[6], ARGV[21], redis.call('HGET', KEYS[6], 'v')) end
  prolong(KEYS[6], conversation_ttl)
  prolong(KEYS[7], conversation_ttl)
  if conversation_ttl == 0 or rest == 0 then rest = 0 else rest = math.max(rest, conversation_ttl) end
end
prolong(log, rest)
if locked and redis.call('GET', KEYS[8]) == ARGV[9] then redis.call('DEL', KEYS[8]) end
if KEYS[run] then
  tell(KEYS[run + 2], told(KEYS[run + 2]), tonumber(ARGV[17]), events_at, items_at - 1)
  if ARGV[16] == '0' then redis.call('PERSIST', KEYS[run + 2]) else redis.call('EXPIRE', KEYS[run + 2], ARGV[16]) end
  redis.call('DEL', KEYS[run], KEYS[run + 1])
  if ARGV[18] == '0' then redis.call('DEL', KEYS[run + 2]) end -- it was kept for who goes on with the run, nobody else
end
return redis.status_reply('SAVED')
