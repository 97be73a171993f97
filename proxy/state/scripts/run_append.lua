-- Adds events to a run's log, for whoever holds its lease. An event that is there already is not added again.
-- KEYS 1 run, 2 lease, 3 events
-- ARGV 1 token, 2 bytes from which on a log is full, 3 ttl, 4 sequence number of the first, then events
-- Answers LOST, and adds nothing: the run is not ours any more, or events that we told before are not there, as a
-- failover lost them; whoever takes the run up goes on from those that are. Else, all being added, 1; CANCELLED:
-- somebody wants the run to end; or FULL
if not held(KEYS[1], KEYS[2], ARGV[1]) then return redis.status_reply('LOST') end
local there, first = told(KEYS[3]), tonumber(ARGV[4])
if first > there then return redis.status_reply('LOST') end
local size = tell(KEYS[3], there, first, 5, #ARGV)
if there == 0 then prolong(KEYS[3], tonumber(ARGV[3])) end
size = redis.call('HINCRBY', KEYS[1], 'z', size)
if redis.call('HEXISTS', KEYS[1], 'x') == 1 then return redis.status_reply('CANCELLED') end
if size >= tonumber(ARGV[2]) then return redis.status_reply('FULL') end
return 1
