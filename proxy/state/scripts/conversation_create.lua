-- Creates a conversation with its first items. Sent twice it is applied once.
-- KEYS 1 conversation, 2 index, 3 log
-- ARGV 1 conversation ttl, 2 log ttl, 3 count of fields and values, then these, then name and bytes of each item
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
local items_at = 4 + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], unpack(ARGV, 4, items_at - 1))
for i = items_at, #ARGV, 2 do
  redis.call('ZADD', KEYS[2], (i - items_at) / 2, ARGV[i])
  redis.call('RPUSH', KEYS[3], ARGV[i + 1])
end
prolong(KEYS[1], tonumber(ARGV[1]))
prolong(KEYS[2], tonumber(ARGV[1]))
prolong(KEYS[3], tonumber(ARGV[2]))
return 1
