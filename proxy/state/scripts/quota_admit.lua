-- Lets a request of a tenant in, or tells what stands in its way and changes nothing. Sent again it is let in once: its
-- token is among those at work. What is at work takes, until it has ended, what the tenant's requests take on average.
-- Seconds count for 60 s after their end, so that no 60 s ever hold more than a limit.
-- KEYS 1 usage, 2 requests at work, 3 bytes by lineage, 4 lineages by their end
-- ARGV 1 token, 2 ms of its lease; most, 0 for no limit: 3 requests, 4 tokens, 5 at work, 6 bytes;
--      7 '1': it was let in elsewhere, and is whatever stands in its way
-- Answers {what stands in the way or '', seconds to wait, requests in the last minute, tokens, bytes, seconds until
-- nothing counts any more of the requests, and of the tokens}
local clock = redis.call('TIME')
local now = tonumber(clock[1])
local ms = now * 1000 + math.floor(tonumber(clock[2]) / 1000)
local most_requests, most_tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local most_at_work, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])

local used, newest, seconds, old, average = { r = 0, t = 0 }, { r = 0, t = 0 }, { r = {}, t = {} }, {}, {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  local kind, second, n = string.sub(flat[i], 1, 1), tonumber(string.sub(flat[i], 2)), tonumber(flat[i + 1])
  if not second then
    average[kind] = n
  elseif second < now - 60 then
    old[#old + 1] = flat[i]
  else
    used[kind] = used[kind] + n
    seconds[kind][second] = n
    newest[kind] = math.max(newest[kind], second)
  end
end
local at_work = redis.call('ZCOUNT', KEYS[2], '(' .. ms, '+inf')
local tokens = used.t + at_work * (average.a or 0)
local bytes = most_bytes > 0 and lineage_bytes(KEYS[3], KEYS[4], now) or 0

-- Seconds until so many of a kind count no more.
local function wait(kind, many)
  for second = now - 60, now do
    many = many - (seconds[kind][second] or 0)
    if many <= 0 then return second + 61 - now end
  end
  return 1
end

local function full(most, taken, each) return most > 0 and taken > 0 and taken + each > most end

local why, seconds_to_wait = '', 0
if ARGV[7] ~= '1' and not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  if full(most_bytes, bytes + at_work * (average.b or 0), average.b or 1) then
    why = 'bytes'
  elseif full(most_at_work, at_work, 1) then
    why, seconds_to_wait = 'turns', 1
  elseif full(most_requests, used.r, 1) then
    why, seconds_to_wait = 'requests', wait('r', used.r + 1 - most_requests)
  elseif full(most_tokens, tokens, average.a or 1) then
    why, seconds_to_wait = 'tokens', wait('t', tokens + (average.a or 1) - most_tokens)
  else
    redis.call('HINCRBY', KEYS[1], 'r' .. now, 1)
    used.r, newest.r = used.r + 1, now
    for _, field in ipairs(old) do redis.call('HDEL', KEYS[1], field) end
  end
end
if why == '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ms - 60000)
  redis.call('ZADD', KEYS[2], ms + tonumber(ARGV[2]), ARGV[1])
  redis.call('EXPIRE', KEYS[1], 3600)
  redis.call('EXPIRE', KEYS[2], 3600)
end
local function reset(kind) return newest[kind] > 0 and newest[kind] + 61 - now or 0 end
return { why, seconds_to_wait, used.r, math.floor(tokens), math.floor(bytes), reset('r'), reset('t') }
