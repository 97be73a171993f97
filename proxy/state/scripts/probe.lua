-- Proves that the store runs scripts and takes writes: a full one, a replica or a narrow ACL would not.
-- KEYS 1 probe
-- Answers 1
redis.call('SET', KEYS[1], '1', 'EX', 1)
return 1
