-- The items a conversation holds now; with a token it also takes the conversation's lock, in the same step. A foreign or
-- missing conversation is never locked. A lock that holds our token is ours, with a whole lease from now on: it may
-- be what is left of one that a killed process of the same turn had.
-- KEYS 1 conversation, 2 index, 3 log, 4 lock
-- ARGV 1 tenant, 2 turn of the conversation, 3 token, '' to read only, 4 lease in milliseconds,
--      5 conversation ttl, 6 log ttl
-- Answers nil, NEWER, BUSY or {length of the log, positions gone, entries, schema}
local refused, schema = refusal(KEYS[1], ARGV[1], ARGV[2])
if refused ~= nil then return refused end
if ARGV[3] ~= '' then
  if redis.call('GET', KEYS[4]) == ARGV[3] then
    redis.call('PEXPIRE', KEYS[4], ARGV[4])
  elseif not redis.call('SET', KEYS[4], ARGV[3], 'NX', 'PX', ARGV[4]) then
    return redis.status_reply('BUSY')
  end
  prolong(KEYS[1], tonumber(ARGV[5]))
  prolong(KEYS[2], tonumber(ARGV[5]))
  prolong(KEYS[3], tonumber(ARGV[6]))
end
local length, gone = redis.call('LLEN', KEYS[3]), {}
if redis.call('ZCARD', KEYS[2]) < length then
  local left, expected = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'), 0
  left[#left + 1] = ''
  left[#left + 1] = length
  for i = 2, #left, 2 do
    local position = tonumber(left[i])
    if expected < position then gone[#gone + 1] = range(expected, position) end
    expected = position + 1
  end
end
return { length, table.concat(gone, ','), entries(KEYS[3], 0, length), schema }
