-- Answers the heads of topics of one partition, and gives an epoch to those that have none.
--
-- KEYS  meta; then head and history of each topic.
-- ARGV  1 generation, 2 suffix of new epochs, 3 lifetime of heads (ms).
-- Answers 'G' for another generation, or 'epoch:offset' for each topic.
local generation = ARGV[1]
if string.sub(redis.call('GET', KEYS[1]) or '', 1, 8) ~= generation then return 'G' end
local heads = {}
for i = 2, #KEYS, 2 do
  local head = redis.call('GET', KEYS[i])
  if not head or string.sub(head, 1, 8) ~= generation then
    head = generation .. ARGV[2] .. ':0'
    redis.call('SET', KEYS[i], head, 'PX', ARGV[3])
    redis.call('UNLINK', KEYS[i + 1])
  end
  heads[#heads + 1] = head
end
return heads
