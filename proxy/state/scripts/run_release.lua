-- Gives a run back, as if its holder had never had it: one that ends in good order is not counted.
-- KEYS 1 run, 2 lease
-- ARGV 1 token
-- Answers 1 when it was ours, else 0
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HINCRBY', KEYS[1], 'n', -1)
redis.call('HDEL', KEYS[1], 'w')
return 1
