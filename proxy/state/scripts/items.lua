-- Where items named by id may lie: the own entries of the response they were made in, and the conversation. Reads only.
-- KEYS 1 record, 2 meta, 3 texts, 4 conversation, 5 index
-- ARGV 1 tenant, 2 prefix of the lineage's logs, 3 and 4 seconds as for history, 5 the same for the conversation,
--      6 name of a conversation's log, then all names of ids
-- Answers NEWER or {own entries, logs of a due touch, entries of the conversation, 1 when its touch is due,
-- the record's owner, the conversation's, its turn}
local own, logs, found, due = {}, {}, {}, 0
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
if refused == nil then
  local r = redis.call('HMGET', KEYS[1], 'l', 's', 'e')
  own = entries(ARGV[2] .. r[1], tonumber(r[2]), tonumber(r[3]))
  local rest = tonumber(ARGV[4])
  local old = ending(KEYS[1], tonumber(ARGV[3])) or ending(KEYS[2], rest) or ending(KEYS[3], rest)
  for i, log in ipairs(path(KEYS[2], r[1], r[3], '')) do
    logs[i] = log[1]
    old = old or ending(ARGV[2] .. log[1], rest)
  end
  if not old then logs = {} end
end
refused = refusal(KEYS[4], ARGV[1])
if refused then return refused end
if refused == nil then
  for i = 7, #ARGV do
    local position = redis.call('ZSCORE', KEYS[5], ARGV[i])
    if position then
      found[#found + 1] = redis.call('LINDEX', ARGV[2] .. ARGV[6], position)
    end
  end
  if #found > 0 and ending(KEYS[4], tonumber(ARGV[5])) then due = 1 end
end
return { own, logs, found, due, owner(KEYS[1]), owner(KEYS[4]), redis.call('HGET', KEYS[4], 'u') }
