-- Counts bytes that are about to be stored in a lineage of a tenant, or gives back those that are there no more. Sent
-- again it is done once: its token stays for a minute, with a lease that is over.
-- KEYS 1 requests at work, 2 bytes by lineage, 3 lineages by their end
-- ARGV 1 token, 2 lineage, 3 bytes, 0 for those that are there already, below 0 those given back, '' for all of the
--      lineage, 4 seconds they are kept, 0 for ever, 5 most bytes of the tenant, 0 for no limit
-- Answers {1 where that is done, 0 where they are too many, the bytes that there were}
local clock = redis.call('TIME')
local now = tonumber(clock[1])
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return { 1, 0 } end
local stored, most = lineage_bytes(KEYS[2], KEYS[3], now), tonumber(ARGV[5])
local bytes = tonumber(ARGV[3]) or -tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
if most > 0 and bytes > 0 and stored + bytes > most then return { 0, math.floor(stored) } end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', (now - 60) * 1000)
redis.call('ZADD', KEYS[1], now * 1000, ARGV[1])
redis.call('EXPIRE', KEYS[1], 3600)
keep_bytes(KEYS[2], KEYS[3], ARGV[2], bytes, tonumber(ARGV[4]), now)
return { 1, math.floor(stored) }
