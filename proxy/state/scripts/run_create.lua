-- Keeps a run, and gives its creator the lease if it wants to make the response itself.
-- KEYS 1 run, 2 lease
-- ARGV 1 ttl, 2 token or '', 3 milliseconds of the lease, then fields and values
-- Answers 1; sent again it changes nothing
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 4))
  prolong(KEYS[1], tonumber(ARGV[1]))
  if ARGV[2] ~= '' then
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    redis.call('HSET', KEYS[1], 'n', 1, 'w', ARGV[2])
  end
end
return 1
