-- Keeps what is in use alive: a record (or conversation) and everything it needs. Never shortens; missing keys stay so.
-- KEYS 1 record, 2 … what it needs
-- ARGV 1 record ttl, 2 ttl of the rest, 3 that key of the rest which, once kept for ever, is kept so ('' for none)
prolong(KEYS[1], tonumber(ARGV[1]))
for i = 2, #KEYS do prolong(KEYS[i], tonumber(ARGV[2]), KEYS[i] == ARGV[3]) end
return 1
