-- Adds items to a conversation, all or none. Sent twice it is applied once: the batch leaves a receipt for a minute.
-- KEYS 1 conversation, 2 index, 3 log, 4 receipt
-- ARGV 1 tenant, 2 turn of the conversation, 3 conversation ttl, 4 log ttl, 5 seconds below which its lineage is to be
--      listed anew, then id and bytes of each item
-- Answers nil, NEWER, ADDED, DUE (added, and to be listed anew) or {ids taken, from 0}
local refused = refusal(KEYS[1], ARGV[1], ARGV[2])
if refused ~= nil then return refused end
if redis.call('EXISTS', KEYS[4]) == 1 then return redis.status_reply('ADDED') end
local clash = taken(KEYS[2], 6, #ARGV, 2)
if #clash > 0 then return clash end
local base, due = redis.call('LLEN', KEYS[3]), ending(KEYS[1], tonumber(ARGV[5]))
for i = 6, #ARGV, 2 do
  redis.call('ZADD', KEYS[2], base + (i - 6) / 2, ARGV[i])
  redis.call('RPUSH', KEYS[3], ARGV[i + 1])
end
redis.call('SET', KEYS[4], '', 'EX', 60)
prolong(KEYS[1], tonumber(ARGV[3]))
prolong(KEYS[2], tonumber(ARGV[3]))
prolong(KEYS[3], tonumber(ARGV[4]))
return redis.status_reply(due and 'DUE' or 'ADDED')
