-- Keys of a lineage as they are at one moment: reads only. Of long lists it tells only how long they are, of streams
-- nothing.
-- KEYS 1 … keys of one lineage
-- ARGV 1 how many entries are not many
-- Answers for each {when it expires, in ms, -1 for never, -2 for a key that is missing; what it holds, '' for a stream; of
-- a list its length}
local found = {}
for i, key in ipairs(KEYS) do
  local kind, held, length = string.match(key, '}:(%a)'), '', 0
  if kind == 'l' then
    length = redis.call('LLEN', key)
    held = length <= tonumber(ARGV[1]) and entries(key, 0, length) or {}
  elseif kind == 'i' then held = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind ~= 'e' then held = redis.call('HGETALL', key) end
  found[i] = { redis.call('PEXPIRETIME', key), held, length }
end
return found
