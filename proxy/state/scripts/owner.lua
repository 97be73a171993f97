-- Whose a response is, or the run that will become it, or a conversation: reads only. Of a response one or the other is
-- seen at any time, as the one takes the place of the other in one step.
-- KEYS 1 record, 2 run; or 1 conversation
-- ARGV 1 tenant, 2 turn of the conversation, else ''
-- Answers nil, NEWER or the owner, '' for nobody
for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then
    local refused = refusal(key, ARGV[1], ARGV[2] ~= '' and ARGV[2])
    if refused ~= nil then return refused end
    return owner(key)
  end
end
return false
