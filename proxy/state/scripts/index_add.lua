-- Lists a response under its tenant, and drops what has outlived its TTL.
-- KEYS 1 tenant index
-- ARGV 1 score, 2 member, 3 the score below which entries go, 4 ttl
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[3])
prolong(KEYS[1], tonumber(ARGV[4]))
return 1
