-- Renews the lease of a run, and tells whether somebody wants it to end.
-- KEYS 1 run, 2 lease
-- ARGV 1 token, 2 milliseconds from now, 3 '1': an upstream has taken the run up
-- Answers 1; CANCELLED; or LOST: the run is not ours any more
if not held(KEYS[1], KEYS[2], ARGV[1]) then return redis.status_reply('LOST') end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'b', 1) end
if redis.call('HEXISTS', KEYS[1], 'x') == 1 then return redis.status_reply('CANCELLED') end
return 1
