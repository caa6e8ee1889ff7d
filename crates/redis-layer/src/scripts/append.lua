-- Appends one batch, of which nothing is to be recognized, to one partition: checks the generation, numbers, keeps,
-- announces. Runs for every event: no closures, no tables, no number becomes text by `..`, which prints it as a float,
-- and no text is made that the writer could bring.
--
-- KEYS  meta, side-effect stream, this writer's last answer; then head and history of each topic.
-- ARGV  1 generation, 2 batch number (16 digits), 3 suffix of new epochs, 4 now (ms), 5 lifetime of heads (ms),
--       6 usual lifetime of histories (ms), 7 publishing command; then for each topic its channel, the
--       history's lifetime where it is to be renewed, else 0, the head that the writer expects, the number of its events,
--       and these with the positions that they have behind that head (or none: they begin with a newline).
-- Answers 'G' for another generation, 'S' for a batch that was overtaken, or a line 'epoch:offset' for each topic as
-- it stood before, and the partition's last sequence.
local call, sub, find, text = redis.call, string.sub, string.find, string.format
local generation, batch = ARGV[1], ARGV[2]
local meta = call('GET', KEYS[1])
if not meta or sub(meta, 1, 8) ~= generation then return 'G' end
local last = call('GET', KEYS[3])
if last then
  local done = sub(last, 1, 16)
  if done == batch then return sub(last, 18) end
  if done > batch then return 'S' end
end
local space = find(meta, ' ', 10, true)
local sequence, before = tonumber(sub(meta, 10, space - 1)), sub(meta, space + 1)
local bytes, at, side_at = tonumber(before), '-' .. ARGV[4], '-' .. before
local side, publish = KEYS[2], ARGV[7]
local answer, a = '', 8
for k = 4, #KEYS, 2 do
  local head, history, channel = call('GET', KEYS[k]), KEYS[k + 1], ARGV[a]
  local prefix, offset, is_new
  if head and sub(head, 1, 8) == generation then
    prefix, offset = sub(head, 1, 21), tonumber(sub(head, 22))
  else
    prefix, offset, is_new = generation .. ARGV[3] .. ':', 0, true
    head = prefix .. '0'
    call('UNLINK', history)
  end
  answer = answer .. head .. '\n'
  local first, is_expected = a + 4, head == ARGV[a + 2]
  a = first + tonumber(ARGV[a + 3])
  for i = first, a - 1 do
    offset, sequence = offset + 1, sequence + 1
    local message = ARGV[i]
    if not is_expected then message = prefix .. text('%d', offset) .. sub(message, (find(message, '\n', 1, true))) end
    bytes = bytes + #message
    call('XADD', history, text('%d%s', offset, at), 'e', message)
    call('XADD', side, text('%d%s', sequence, side_at), 'e', message)
    call(publish, channel, message)
  end
  call('SET', KEYS[k], text('%s%d', prefix, offset), 'PX', ARGV[5])
  local lifetime = ARGV[first - 3]
  if lifetime == '0' and (is_new or offset == a - first) then lifetime = ARGV[6] end
  if lifetime ~= '0' then call('PEXPIRE', history, lifetime) end
end
local tail = text('%d', sequence)
answer = answer .. tail
call('SET', KEYS[1], generation .. ' ' .. tail .. ' ' .. bytes % 1e13)
call('SET', KEYS[3], batch .. ' ' .. answer, 'PX', '600000')
return answer
