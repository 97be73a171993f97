-- The models of several responses, as their records hold them: reads only. They lie in slots of their own: on a Cluster it
-- is sent for each alone.
-- KEYS 1 record, 2 … others
-- ARGV 1 tenant
-- Answers for each nil where there is none, NEWER, or its schema, a space and its model
local found = {}
for i, key in ipairs(KEYS) do
  local refused, schema = refusal(key, ARGV[1])
  if refused ~= nil then
    found[i] = refused
  else
    found[i] = schema .. ' ' .. redis.call('HGET', key, 'm')
  end
end
return found
