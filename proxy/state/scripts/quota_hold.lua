-- Renews the leases of requests that are still at work. Sent again it changes nothing; one that has ended stays so.
-- KEYS 1 requests at work
-- ARGV 1 ms from now, then tokens
local clock = redis.call('TIME')
local ends = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[1])
redis.call('EXPIRE', KEYS[1], 3600)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[i]) end
return 1
