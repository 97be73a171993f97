-- A response's record with its own items and its texts: reads only. Where there is none, the run that will become it:
-- one or the other is seen at any time, as the one takes the place of the other in one step.
-- KEYS 1 record, 2 texts, 3 the run, if that is wanted too
-- ARGV 1 tenant, 2 prefix of the lineage's logs
-- Answers nil, NEWER, {fields and values, own entries, {text field, text or nil, …}} or of a run {fields and values}
if KEYS[3] and redis.call('EXISTS', KEYS[1]) == 0 then
  local refused = refusal(KEYS[3], ARGV[1])
  if refused ~= nil then return refused end
  return { redis.call('HGETALL', KEYS[3]) }
end
local refused = refusal(KEYS[1], ARGV[1])
if refused ~= nil then return refused end
local r = redis.call('HMGET', KEYS[1], 'l', 's', 'e')
local fields = redis.call('HGETALL', KEYS[1])
local texts = {}
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 2) == 'x:' then
    texts[#texts + 1] = fields[i]
    texts[#texts + 1] = redis.call('HGET', KEYS[2], fields[i + 1])
  end
end
return { fields, entries(ARGV[2] .. r[1], tonumber(r[2]), tonumber(r[3])), texts }
