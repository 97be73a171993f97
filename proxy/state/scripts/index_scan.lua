-- The next members of a tenant's index after a given one: reads only.
-- KEYS 1 tenant index
-- ARGV 1 'asc' or 'desc', 2 how many, 3 the member to start after, '' for the first
-- Answers CURSOR when that member is not there, or {members}
local ascending, first = ARGV[1] == 'asc', 0
if ARGV[3] ~= '' then
  local rank = redis.call(ascending and 'ZRANK' or 'ZREVRANK', KEYS[1], ARGV[3])
  if not rank then return redis.status_reply('CURSOR') end
  first = rank + 1
end
return redis.call(ascending and 'ZRANGE' or 'ZREVRANGE', KEYS[1], first, first + tonumber(ARGV[2]) - 1)
