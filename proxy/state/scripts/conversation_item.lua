-- One item of a conversation: reads only.
-- KEYS 1 conversation, 2 index, 3 log
-- ARGV 1 tenant, 2 turn of the conversation, 3 … the names of the item's id
-- Answers nil, NEWER, ABSENT, UNSURE or {entry}
local refused, schema = refusal(KEYS[1], ARGV[1], ARGV[2])
if refused ~= nil then return refused end
local position = named(KEYS[2], 3, #ARGV)
if not position then return absent(schema) end
return { redis.call('LINDEX', KEYS[3], position) }
