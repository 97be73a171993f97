-- Takes keys away, their memory freed beside other work. Sent again it does nothing.
-- KEYS 1 … the keys, on a Cluster of one slot
-- Answers how many were there
local gone = 0
for _, key in ipairs(KEYS) do gone = gone + redis.call('UNLINK', key) end
return gone
