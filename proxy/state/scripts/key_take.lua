-- Takes an idempotency key, unless another request has it: holds it, or has named the response that it stands for.
-- KEYS 1 hold, 2 name
-- ARGV 1 hash of the body (32 characters) and token, 2 milliseconds of the hold, 3 a response that it stands for no more, or ''
-- Answers TAKEN, also when sent again; or {hash of the body, response or '', 1 if somebody holds it}
local held, named = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if named and string.sub(named, 33) ~= ARGV[3] then
  return { string.sub(named, 1, 32), string.sub(named, 33), held and 1 or 0 }
end
if held and held ~= ARGV[1] then return { string.sub(held, 1, 32), '', 1 } end
if named then redis.call('DEL', KEYS[2]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.status_reply('TAKEN')
