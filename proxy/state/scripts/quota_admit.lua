-- Lets a request of a tenant in, or tells what stands in its way and counts nothing. Sent again it is let in once: its
-- token is among those at work. What is at work takes, until it has ended, what the tenant's requests take on average.
-- Seconds count for 60 s after their end, so that no 60 s ever hold more than a limit. `R` and `T` are the sums of all
-- seconds from `p` on, so that nobody has to read them; `l` and `m` are the last ones of each.
-- KEYS 1 usage, 2 requests at work, 3 bytes by lineage, 4 lineages by their end
-- ARGV 1 token, 2 ms of its lease; most, 0 for no limit: 3 requests, 4 tokens, 5 at work, 6 bytes;
--      7 '1': it was let in elsewhere, and is whatever stands in its way
-- Answers {what stands in the way or '', seconds to wait (0: that does not help), requests in the last minute, tokens,
-- bytes, seconds until nothing counts any more of the requests, and of the tokens}
local clock = redis.call('TIME')
local now = tonumber(clock[1])
local ms = now * 1000 + math.floor(tonumber(clock[2]) / 1000)
local most_requests, most_tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local most_at_work, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])

local kept = redis.call('HMGET', KEYS[1], 'p', 'R', 'T', 'a', 'b', 'l', 'm')
for i = 1, #kept do kept[i] = tonumber(kept[i] or '0') end
local first = kept[1]
-- of a tenant of which nothing is known yet: else all that it asks at once would be let in
local average = kept[4] > 0 and kept[4] or 1000
local average_bytes = kept[5] > 0 and kept[5] or 4000
local used, last, old = { r = kept[2], t = kept[3] }, { r = kept[6], t = kept[7] }, {}

local function forget(field, n)
  local kind = string.sub(field, 1, 1)
  used[kind] = used[kind] - tonumber(n)
  old[#old + 1] = field
end
if first > 0 and now - 61 - first > 60 then
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do
    local second = tonumber(string.match(flat[i], '^[rt](%d+)$'))
    if second and second < now - 60 then forget(flat[i], flat[i + 1]) end
  end
elseif first > 0 then
  for second = first, now - 61 do
    for _, field in ipairs({ 'r' .. second, 't' .. second }) do
      local n = redis.call('HGET', KEYS[1], field)
      if n then forget(field, n) end
    end
  end
end
-- also for what is refused: who goes on asking would have more seconds read each time
for _, field in ipairs(old) do redis.call('HDEL', KEYS[1], field) end
local function sum(kind) return string.format('%.0f', used[kind]) end
if #old > 0 or (first > 0 and now - 70 > first) then
  redis.call('HSET', KEYS[1], 'p', now - 60, 'R', sum('r'), 'T', sum('t'))
end
local at_work = redis.call('ZCOUNT', KEYS[2], '(' .. ms, '+inf')
local tokens = used.t + at_work * average
local stored = most_bytes > 0 and lineage_bytes(KEYS[3], KEYS[4], now) or 0
local bytes = stored + at_work * average_bytes

-- Seconds until so many of a kind count no more.
local function wait(kind, many)
  if many > used[kind] then return 1 end -- what is at work stands in the way
  for second = now - 60, now do
    many = many - tonumber(redis.call('HGET', KEYS[1], kind .. second) or '0')
    if many <= 0 then return second + 61 - now end
  end
  return 1
end

local function full(most, taken, each) return most > 0 and taken > 0 and taken + each > most end

local why, seconds_to_wait = '', 0
if ARGV[7] ~= '1' and not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  if full(most_bytes, bytes, average_bytes) then
    why, seconds_to_wait = 'bytes', full(most_bytes, stored, average_bytes) and 0 or 1
  elseif full(most_at_work, at_work, 1) then
    why, seconds_to_wait = 'turns', 1
  elseif full(most_requests, used.r, 1) then
    why, seconds_to_wait = 'requests', wait('r', used.r + 1 - most_requests)
  elseif full(most_tokens, tokens, average) then
    why, seconds_to_wait = 'tokens', wait('t', tokens + average - most_tokens)
  else
    used.r, last.r = used.r + 1, now
    redis.call('HINCRBY', KEYS[1], 'r' .. now, 1)
    redis.call('HSET', KEYS[1], 'p', now - 60, 'R', sum('r'), 'T', sum('t'), 'l', now)
  end
end
if why == '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ms - 60000)
  redis.call('ZADD', KEYS[2], ms + tonumber(ARGV[2]), ARGV[1])
  redis.call('EXPIRE', KEYS[1], 3600)
  redis.call('EXPIRE', KEYS[2], 3600)
end
local function reset(kind) return used[kind] > 0 and last[kind] + 61 - now or 0 end
return { why, seconds_to_wait, used.r, math.floor(tokens), math.floor(bytes), reset('r'), reset('t') }
