-- Deletes a response: its record, and when it is the newest of its log also its items, down to the highest point where
-- another one branched off. Entries become '', because a log never shrinks: positions are for ever.
-- KEYS 1 record, 2 its log, 3 meta
-- ARGV 1 tenant, 2 name of its log, 3 '1' when the log is a conversation's: its items stay
-- Answers nil, NEWER or the bytes that were freed, of the record and of items
local refused = refusal(KEYS[1], ARGV[1])
if refused ~= nil then return refused end
local r = redis.call('HMGET', KEYS[1], 's', 'e')
local start, finish = tonumber(r[1]), tonumber(r[2])
local freed = 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if not string.find(fields[i], '^[lspeg]$') then freed = freed + #fields[i] + #fields[i + 1] end -- as its save counted
end
if ARGV[3] ~= '1' and redis.call('LLEN', KEYS[2]) == finish then
  local floor = tonumber(redis.call('HGET', KEYS[3], 'f:' .. ARGV[2]) or '0')
  -- first, because a full store refuses LSET as the first write of a script, and deleting is how it gets emptier
  redis.call('DEL', KEYS[1])
  for i = math.max(start, floor), finish - 1 do
    freed = freed + #redis.call('LINDEX', KEYS[2], i)
    redis.call('LSET', KEYS[2], i, '')
  end
end
redis.call('DEL', KEYS[1])
return freed
