-- Writes a lineage that is to be as it was elsewhere: all of it, or nothing where any of its keys is there. So sent twice
-- it is applied once.
-- KEYS 1 … its keys, each of which is not there yet
-- ARGV for each key in turn: the command that fills it, when it expires in ms ('0' never), how many arguments, then these;
--      of a stream the arguments are its entries, numbered from 1
-- Answers WRITTEN or {which of the keys are there, from 0}
local there = {}
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then there[#there + 1] = i - 1 end
end
if #there > 0 then return there end
local at = 1
for _, key in ipairs(KEYS) do
  local command, expiry, last = ARGV[at], ARGV[at + 1], at + 2 + tonumber(ARGV[at + 2])
  if command == 'XADD' then
    for i = at + 3, last do redis.call('XADD', key, '0-' .. (i - at - 2), 'e', ARGV[i]) end
  else
    for i = at + 3, last, 500 do redis.call(command, key, unpack(ARGV, i, math.min(i + 499, last))) end
  end
  if expiry ~= '0' then redis.call('PEXPIREAT', key, expiry) end
  at = last + 1
end
return redis.status_reply('WRITTEN')
