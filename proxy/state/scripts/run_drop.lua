-- Takes a run and its log away, for whoever holds its lease: nothing of it is to stay.
-- KEYS 1 run, 2 lease, 3 events
-- ARGV 1 token
-- Answers 1 when there is no such run any more, 0 when it is another's; sent again it changes nothing
if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
if not held(KEYS[1], KEYS[2], ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
