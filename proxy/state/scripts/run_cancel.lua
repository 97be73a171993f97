-- Asks for a run to end. From here on it can only be saved as cancelled.
-- KEYS 1 run, 2 lease
-- ARGV 1 tenant
-- Answers nil, NEWER, HELD (somebody makes it) or FREE
local refused = refusal(KEYS[1], ARGV[1])
if refused ~= nil then return refused end
redis.call('HSET', KEYS[1], 'x', 1)
return redis.status_reply(redis.call('EXISTS', KEYS[2]) == 1 and 'HELD' or 'FREE')
