-- Replaces a conversation's metadata, or takes an item out of it. The item's bytes stay in the log: responses that were
-- made with it still need them.
-- KEYS 1 conversation, 2 index, 3 log
-- ARGV 1 tenant, 2 turn of the conversation, 3 conversation ttl, 4 log ttl, 5 seconds below which its lineage is to
--      be listed anew, 6 'metadata' or 'item', 7 schema of the metadata, 8 the metadata, or 8 … the names of the item's id
-- Answers nil, NEWER, ABSENT or UNSURE (no such item) or {created_at, metadata, 1 when it is to be listed anew}
local refused, schema = refusal(KEYS[1], ARGV[1], ARGV[2])
if refused ~= nil then return refused end
local due = ending(KEYS[1], tonumber(ARGV[5])) and 1 or 0
if ARGV[6] == 'metadata' then
  redis.call('HSET', KEYS[1], 'm', ARGV[8])
  needs(KEYS[1], ARGV[7], schema)
elseif redis.call('ZREM', KEYS[2], unpack(ARGV, 8)) == 0 then
  return absent(schema)
end
prolong(KEYS[1], tonumber(ARGV[3]))
prolong(KEYS[2], tonumber(ARGV[3]))
prolong(KEYS[3], tonumber(ARGV[4]))
local made = redis.call('HMGET', KEYS[1], 'c', 'm')
return { made[1], made[2], due }
