-- Reads documents of one partition with their unflushed revisions.
--
-- KEYS  document and unflushed revisions of each.
-- Answers for each its head ('' where it is not here), its value, and a list of number and record of each revision.
local answer = {}
for k = 1, #KEYS, 2 do
  local head = head_of(KEYS[k])
  answer[(k + 1) / 2] = { head or '', head and data_of(KEYS[k]) or '', redis.call('HGETALL', KEYS[k + 1]) }
end
return answer
