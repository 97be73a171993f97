-- Names the response that an idempotency key stands for, for whoever holds the key.
-- KEYS 1 hold, 2 name
-- ARGV 1 hash of the body (32 characters) and token, 2 response, 3 seconds the name is kept
-- Answers 1, or 0 when the key is not ours any more; sent again it changes nothing
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], string.sub(ARGV[1], 1, 32) .. ARGV[2], 'EX', ARGV[3])
return 1
