-- Keys of a lineage as they are at one moment: reads only. Of lists it tells only how long they are, of streams
-- nothing.
-- KEYS 1 … keys of one lineage
-- Answers for each {when it expires, in ms, -1 for never, -2 for a key that is missing; what it holds, or its length}
local found = {}
for i, key in ipairs(KEYS) do
  local kind, held = string.match(key, '}:(%a)'), ''
  if kind == 'l' then held = redis.call('LLEN', key)
  elseif kind == 'i' then held = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind ~= 'e' then held = redis.call('HGETALL', key) end
  found[i] = { redis.call('PEXPIRETIME', key), held }
end
return found
