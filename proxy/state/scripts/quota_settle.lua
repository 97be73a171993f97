-- Ends a request of a tenant: it is at work no more, and what it took counts. Sent again it finds that done.
-- KEYS 1 usage, 2 requests at work, 3 bytes by lineage, 4 lineages by their end
-- ARGV 1 token, 2 tokens that it took, 3 lineage or '', 4 bytes stored there, 5 seconds these are kept, 0 for ever
-- Answers 1, or 0 where it had been ended
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
local now = tonumber(redis.call('TIME')[1])
local function note(kind, n)
  local average = tonumber(redis.call('HGET', KEYS[1], kind) or n)
  n = math.min(n, 10 * average) -- one that is far off must not keep those after it out
  redis.call('HSET', KEYS[1], kind, string.format('%.2f', average + (n - average) / 8))
end
local tokens, bytes = tonumber(ARGV[2]), tonumber(ARGV[4])
if tokens > 0 then
  redis.call('HINCRBY', KEYS[1], 't' .. now, tokens)
  redis.call('HINCRBY', KEYS[1], 'T', tokens)
  redis.call('HSET', KEYS[1], 'm', now)
  redis.call('HSETNX', KEYS[1], 'p', now - 60)
  note('a', tokens)
end
if bytes > 0 then
  note('b', bytes)
  keep_bytes(KEYS[3], KEYS[4], ARGV[3], bytes, tonumber(ARGV[5]), now)
end
if tokens > 0 or bytes > 0 then redis.call('EXPIRE', KEYS[1], 3600) end
return 1
