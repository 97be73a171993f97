-- Enters a run into the list of all, unless there are too many.
-- KEYS 1 runs
-- ARGV 1 member, 2 tenant, 3 when to look after it, 4 most runs, 5 most runs of a tenant; 0 is no limit
-- Answers ADMITTED, FULL or TENANT (too many of this tenant)
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return redis.status_reply('ADMITTED') end
local most, most_of_tenant = tonumber(ARGV[4]), tonumber(ARGV[5])
if most > 0 and redis.call('ZCARD', KEYS[1]) >= most then return redis.status_reply('FULL') end
if most_of_tenant > 0 then
  local own = 0
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if string.sub(member, 23) == ARGV[2] then own = own + 1 end
  end
  if own >= most_of_tenant then return redis.status_reply('TENANT') end
end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return redis.status_reply('ADMITTED')
