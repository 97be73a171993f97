-- Deletes a conversation. Its log stays for the responses made in it, as long as such a response can live.
-- KEYS 1 conversation, 2 index, 3 log, 4 lock
-- ARGV 1 tenant, 2 turn of the conversation, 3 ttl of the log
-- Answers nil, NEWER or 1
local refused = refusal(KEYS[1], ARGV[1], ARGV[2])
if refused ~= nil then return refused end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[4])
if ARGV[3] == '0' then redis.call('PERSIST', KEYS[3]) else redis.call('EXPIRE', KEYS[3], ARGV[3]) end
return 1
