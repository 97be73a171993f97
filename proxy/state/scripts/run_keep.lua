-- Keeps values beside a run, for whoever holds its lease and whoever takes it up.
-- KEYS 1 run, 2 lease
-- ARGV 1 token, then fields and values
-- Answers LOST: the run is not ours any more; else 1; sent again it changes nothing
if not held(KEYS[1], KEYS[2], ARGV[1]) then return redis.status_reply('LOST') end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
