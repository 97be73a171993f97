-- Adds items to a conversation, all or none. Sent twice it is applied once: the batch leaves a receipt for a minute.
-- KEYS 1 conversation, 2 index, 3 log, 4 receipt
-- ARGV 1 tenant, 2 turn of the conversation, 3 conversation ttl, 4 log ttl, 5 seconds below which its lineage is to be
--      listed anew, 6 schema of the items, 7 count of names that an id has, then these and the bytes of each item
-- Answers nil, NEWER, ADDED, DUE (added, and to be listed anew) or {ids taken, from 0}
local refused, schema = refusal(KEYS[1], ARGV[1], ARGV[2])
if refused ~= nil then return refused end
if redis.call('EXISTS', KEYS[4]) == 1 then return redis.status_reply('ADDED') end
local names = tonumber(ARGV[7])
local clash = taken(KEYS[2], 8, #ARGV, names + 1, names)
if #clash > 0 then return clash end
local base, due = redis.call('LLEN', KEYS[3]), ending(KEYS[1], tonumber(ARGV[5]))
needs(KEYS[1], ARGV[6], schema)
for i = 8, #ARGV, names + 1 do
  redis.call('ZADD', KEYS[2], base + (i - 8) / (names + 1), ARGV[i])
  redis.call('RPUSH', KEYS[3], ARGV[i + names])
end
redis.call('SET', KEYS[4], '', 'EX', 60)
prolong(KEYS[1], tonumber(ARGV[3]))
prolong(KEYS[2], tonumber(ARGV[3]))
prolong(KEYS[3], tonumber(ARGV[4]))
return redis.status_reply(due and 'DUE' or 'ADDED')
