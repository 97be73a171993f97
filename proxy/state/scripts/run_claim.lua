-- Takes the lease of a run that nobody holds. What its earlier holder had begun may be half done; `n` counts the
-- holders, `w` is the last one's token.
-- KEYS 1 run, 2 lease
-- ARGV 1 tenant, 2 token, 3 milliseconds of the lease
-- Answers nil, NEWER, BUSY or its fields and values; sent again, the same
local refused = refusal(KEYS[1], ARGV[1])
if refused ~= nil then return refused end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return redis.status_reply('BUSY') end
if not holder then redis.call('HINCRBY', KEYS[1], 'n', 1) end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'w', ARGV[2])
return redis.call('HGETALL', KEYS[1])
