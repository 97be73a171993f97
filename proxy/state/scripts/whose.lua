-- Whose records, runs and conversations are: reads only.
-- KEYS 1 … their keys, on a Cluster of one slot
-- Answers {tenant or nil, …}
local tenants = {}
for i, key in ipairs(KEYS) do tenants[i] = redis.call('HGET', key, 't') end
return tenants
