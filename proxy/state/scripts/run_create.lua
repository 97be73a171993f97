-- Keeps a run, and gives its creator the lease if it wants to make the response itself. What it continues from is kept
-- for it as for a branch: deleting a response erases no item that a run may have to be made from again.
-- KEYS 1 run, 2 lease, 3 meta
-- ARGV 1 ttl, 2 token or '', 3 milliseconds of the lease, 4 name of the log it continues or '', 5 the length that had,
--      6 ttl of meta, then fields and values
-- Answers 1; sent again it changes nothing
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 7))
  prolong(KEYS[1], tonumber(ARGV[1]))
  if ARGV[2] ~= '' then
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    redis.call('HSET', KEYS[1], 'n', 1, 'w', ARGV[2])
  end
  if ARGV[4] ~= '' then
    local floor = tonumber(redis.call('HGET', KEYS[3], 'f:' .. ARGV[4]) or '0')
    if tonumber(ARGV[5]) > floor then redis.call('HSET', KEYS[3], 'f:' .. ARGV[4], ARGV[5]) end
    prolong(KEYS[3], tonumber(ARGV[6]))
  end
end
return 1
