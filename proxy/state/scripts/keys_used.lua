-- Notes by which key content is encrypted from here on. What another key has encrypted until now lives for as long as
-- content does, and is forgotten then. Sent again it changes nothing.
-- KEYS 1 names of keys by the end of what they have encrypted
-- ARGV 1 name of the key that encrypts now, '' for none, 2 now, 3 seconds that content lives, 0 for ever
-- Answers {names}
if ARGV[3] ~= '0' then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if name ~= ARGV[1] then redis.call('ZADD', KEYS[1], 'LT', ARGV[2] + ARGV[3], name) end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2])
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[1], '+inf', ARGV[1]) end
return redis.call('ZRANGE', KEYS[1], 0, -1)
