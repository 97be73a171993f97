-- Whose each of several responses is: reads only. They lie in slots of their own: on a Cluster it is sent for each alone.
-- KEYS 1 record, 2 … others
-- ARGV 1 tenant
-- Answers for each nil where it cannot be used, for whatever reason, else its owner, '' for nobody
local found = {}
for i, key in ipairs(KEYS) do
  found[i] = refusal(key, ARGV[1]) == nil and owner(key)
end
return found
