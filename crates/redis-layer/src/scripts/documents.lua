-- Writes, or looks at, documents of one partition: each that still has the expected head is written together with what
-- is remembered of its revisions and with their events; each other one is answered as it stands.
--
-- KEYS  meta, side-effect stream, this writer's last answer, unflushed documents; then head and history of each topic;
--       then document and unflushed revisions of each document.
-- ARGV  1 to 7 as in append.lua, 8 lifetime of what is flushed (ms), 9 the mark of a document that is not here, 10 its
--       lifetime (ms), 11 revisions that are kept, 12 number of topics; then for each topic its channel, the history's
--       lifetime where it is to be renewed, else 0, and the head that the writer expects; then for each document the
--       expected head, 'd' where its unflushed revisions are dropped, its name, its new head (empty: none) and value,
--       the number of its revisions, and these: number, record, number of the topic, event with the position that it
--       has if all is as expected (or none: it begins with a newline).
-- Answers 'G' for another generation, 'S' for a batch that was overtaken, or lines: the partition's last sequence, a
-- letter for each document: 'O' where the head was the expected one, else 'C', and each topic's head since. Behind that
-- text, for each 'C', the document's number, its head and its value; those are not there in an answer that is given
-- again.
local call, sub, find, text = redis.call, string.sub, string.find, string.format
local generation, batch = ARGV[1], ARGV[2]
local meta = call('GET', KEYS[1])
if not meta or sub(meta, 1, 8) ~= generation then return { 'G' } end
local last = call('GET', KEYS[3])
if last then
  local done = sub(last, 1, 16)
  if done == batch then return { sub(last, 18) } end
  if done > batch then return { 'S' } end
end
local space = find(meta, ' ', 10, true)
local sequence, before = tonumber(sub(meta, 10, space - 1)), sub(meta, space + 1)
local bytes, first_sequence, now = tonumber(before), sequence, ARGV[4]
local at, side_at = '-' .. now, '-' .. before
local side, unflushed, publish = KEYS[2], KEYS[4], ARGV[7]
local kept, topics = tonumber(ARGV[11]), tonumber(ARGV[12])
local prefixes, offsets, starts, are_expected = {}, {}, {}, {}
for t = 1, topics do
  local head = call('GET', KEYS[3 + 2 * t])
  if head and sub(head, 1, 8) == generation then
    prefixes[t], offsets[t] = sub(head, 1, 21), tonumber(sub(head, 22))
    are_expected[t] = head == ARGV[12 + 3 * t]
  else
    prefixes[t], offsets[t] = generation .. ARGV[3] .. ':', 0
    call('UNLINK', KEYS[4 + 2 * t])
  end
  starts[t] = offsets[t]
end

local letters, answer = {}, { '' }
local a, number = 13 + 3 * topics, 0
for k = 5 + 2 * topics, #KEYS, 2 do
  number = number + 1
  local key, pending = KEYS[k], KEYS[k + 1]
  local head, name, count = ARGV[a + 3], ARGV[a + 2], tonumber(ARGV[a + 5])
  local present = head_of(key)
  if present and present == ARGV[a] then
    letters[number] = 'O'
    if ARGV[a + 1] == 'd' then
      call('UNLINK', pending)
      call('ZREM', unflushed, name)
    end
    if head ~= '' then put(key, head, ARGV[a + 4]) end
    local p = a + 6
    for _ = 1, count do
      local t = tonumber(ARGV[p + 2])
      local offset = offsets[t] + 1
      offsets[t], sequence = offset, sequence + 1
      local message = ARGV[p + 3]
      if not are_expected[t] then
        message = prefixes[t] .. text('%d', offset) .. sub(message, (find(message, '\n', 1, true)))
      end
      bytes = bytes + #message
      call('HSET', pending, ARGV[p], ARGV[p + 1])
      call('XADD', KEYS[4 + 2 * t], text('%d%s', offset, at), 'e', message)
      call('XADD', side, text('%d%s', sequence, side_at), 'e', message)
      call(publish, ARGV[10 + 3 * t], message)
      p = p + 4
    end
    if count > 0 or (head ~= '' and call('EXISTS', pending) == 1) then
      if call('ZADD', unflushed, 'NX', now, name) == 1 or sub(present, 1, 1) == '?' then
        call('PERSIST', key)
      else
        for i = 1, count do call('HDEL', pending, tonumber(ARGV[a + 2 + 4 * i]) - kept) end
      end
    elseif head ~= '' then
      call('PEXPIRE', key, ARGV[8])
    end
  else
    letters[number] = 'C'
    if count > 0 then are_expected = {} end
    local n = #answer
    if not present then
      present = ARGV[9]
      mark(key, present)
    end
    local is_away = sub(present, 1, 1) == '?'
    if is_away then call('PEXPIRE', key, ARGV[10]) end
    answer[n + 1], answer[n + 2], answer[n + 3] = number, present, is_away and '' or data_of(key)
  end
  a = a + 6 + 4 * count
end

local fates = text('%d\n', sequence) .. table.concat(letters)
for t = 1, topics do
  local head = text('%s%d', prefixes[t], offsets[t])
  fates = fates .. '\n' .. head
  if offsets[t] > starts[t] then
    call('SET', KEYS[3 + 2 * t], head, 'PX', ARGV[5])
    local lifetime = ARGV[11 + 3 * t]
    if lifetime == '0' and starts[t] == 0 then lifetime = ARGV[6] end
    if lifetime ~= '0' then call('PEXPIRE', KEYS[4 + 2 * t], lifetime) end
  end
end
if sequence > first_sequence then
  call('SET', KEYS[1], text('%s %d %d', generation, sequence, bytes % 1e13))
  call('SET', KEYS[3], batch .. ' ' .. fates, 'PX', '600000')
end
answer[1] = fates
return answer
