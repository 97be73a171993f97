-- Lists a response under its tenant, and its lineage too, and drops what has outlived its TTL from both lists.
-- KEYS 1 tenant index, 2 tenant's lineages
-- ARGV 1 score, 2 member, 3 the score below which entries go, 4 ttl, then as for list_lineage: 5 tag, 6 until, 7 now
-- Answers 1
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[3])
prolong(KEYS[1], tonumber(ARGV[4]))
list_lineage(KEYS[2], ARGV[5], ARGV[6], ARGV[7])
return 1
