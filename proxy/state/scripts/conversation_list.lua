-- A page of a conversation's items by position: reads only.
-- KEYS 1 conversation, 2 index, 3 log
-- ARGV 1 tenant, 2 turn of the conversation, 3 'asc' or 'desc', 4 how many, 5 … the names of the id to start after, none
--      for the first
-- Answers nil, NEWER, ABSENT or UNSURE when that id is not there, or {entries}
local refused, schema = refusal(KEYS[1], ARGV[1], ARGV[2])
if refused ~= nil then return refused end
local ascending, first, count = ARGV[3] == 'asc', 0, tonumber(ARGV[4])
if #ARGV > 4 then
  local rank
  for i = 5, #ARGV do rank = rank or redis.call(ascending and 'ZRANK' or 'ZREVRANK', KEYS[2], ARGV[i]) end
  if not rank then return absent(schema) end
  first = rank + 1
end
local found = redis.call(ascending and 'ZRANGE' or 'ZREVRANGE', KEYS[2], first, first + count - 1, 'WITHSCORES')
local page, n = {}, #found / 2
if n == 0 then return page end
local a, b = tonumber(found[2]), tonumber(found[#found])
local low, high = math.min(a, b), math.max(a, b)
if high - low < 4 * n then -- dense: one range read is cheaper than a search for each
  local span = entries(KEYS[3], low, high + 1)
  for i = 1, n do page[i] = span[tonumber(found[2 * i]) - low + 1] end
else
  for i = 1, n do page[i] = redis.call('LINDEX', KEYS[3], found[2 * i]) end
end
return page
