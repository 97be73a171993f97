-- Everything a response's model saw or said, however long the chain: reads only, and follows pointers within one slot.
-- KEYS 1 record, or a run that continues a response; 2 meta, 3 texts
-- ARGV 1 tenant, 2 prefix of the lineage's logs, 3 'e' to its end or 'p' to the end of its input,
--      4 seconds below which the record wants to be touched, 5 the same for logs, meta and texts
-- Answers nil, NEWER or {status, log, length, gone, 1 when a touch is due, {{log, length, gone, entries}, newest first},
-- owner, schema}
local refused, schema = refusal(KEYS[1], ARGV[1])
if refused ~= nil then return refused end
local r = redis.call('HMGET', KEYS[1], 'st', 'l', ARGV[3], 'g')
local rest = tonumber(ARGV[5])
local due = ending(KEYS[1], tonumber(ARGV[4])) or ending(KEYS[2], rest) or ending(KEYS[3], rest)
local segments = {}
for i, log in ipairs(path(KEYS[2], r[2], r[3], r[4] or '')) do
  local key = ARGV[2] .. log[1]
  due = due or ending(key, rest)
  segments[i] = { log[1], log[2], log[3], entries(key, 0, tonumber(log[2])) }
end
return { r[1], r[2], r[3], r[4] or '', due and 1 or 0, segments, owner(KEYS[1]), schema }
