-- Renews or releases a lock, if it is still ours.
-- KEYS 1 lock
-- ARGV 1 token, 2 milliseconds from now; 0 releases
-- Answers 1 when it was ours, else 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
