-- Appends one batch, of which repeats are to be recognized, to one partition: all of a request or nothing of it.
--
-- KEYS  meta, side-effect stream, this writer's last answer, sources; then head and history of each topic; then
--       publishers' ids.
-- ARGV  1 to 7 as in append.lua, 8 lifetime of publishers' ids (ms), 9 number of topics; then for each topic its
--       channel and the history's lifetime where it is to be renewed, else 0; then requests: the number of their entries,
--       and entries of (topic, event, kind, a, b): kind 'u', of which nothing is remembered; 'k' with the number of
--       the id's key and the fingerprint of the content; 'p' with the source and 'term position'.
-- Answers as append.lua, and a line for each exception: 'R entry [position]' repeated, 'C request entry' conflict,
-- 'F request entry term' fenced. Requests and entries are counted from 0 over the whole batch.
local call, sub, find = redis.call, string.sub, string.find
local generation, batch = ARGV[1], ARGV[2]
local meta = call('GET', KEYS[1])
if not meta or sub(meta, 1, 8) ~= generation then return 'G' end
local last = call('GET', KEYS[3])
if last then
  local done = sub(last, 1, 16)
  if done == batch then return sub(last, 18) end
  if done > batch then return 'S' end
end

local publish, topics = ARGV[7], tonumber(ARGV[9])
local side, sources = KEYS[2], KEYS[4]
local split = find(meta, ' ', 10, true)
local sequence, bytes = tonumber(sub(meta, 10, split - 1)), tonumber(sub(meta, split + 1))
local first_sequence = sequence
local at, side_at = '-' .. ARGV[4], '-' .. sub(meta, split + 1)
local epochs, offsets, histories, channels, prefixes, answer = {}, {}, {}, {}, {}, {}
local before = {}
for t = 1, topics do
  local head = call('GET', KEYS[3 + 2 * t])
  histories[t], channels[t] = KEYS[4 + 2 * t], ARGV[8 + 2 * t]
  if head and sub(head, 1, 8) == generation then
    epochs[t], offsets[t] = sub(head, 1, 20), tonumber(sub(head, 22))
  else
    epochs[t], offsets[t] = generation .. ARGV[3], 0
    call('UNLINK', histories[t])
  end
  before[t], prefixes[t] = offsets[t], epochs[t] .. ':'
  answer[t] = prefixes[t] .. offsets[t]
end
local lines = topics + 1
answer[lines] = sequence

local function append(t, event)
  local offset = offsets[t] + 1
  offsets[t], sequence = offset, sequence + 1
  local message = prefixes[t] .. offset .. event
  bytes = bytes + #message
  call('XADD', histories[t], offset .. at, 'e', message)
  call('XADD', side, sequence .. side_at, 'e', message)
  call(publish, channels[t], message)
end

local ids, states, moved = {}, {}, {}
local function known(key)
  local id = ids[key]
  if id == nil then
    id = call('GET', KEYS[key])
    ids[key] = id
  end
  return id
end
local function state(source)
  local found = states[source]
  if not found then
    local stored = call('HGET', sources, source)
    if stored then
      local space = find(stored, ' ', 1, true)
      found = { tonumber(sub(stored, 1, space - 1)), sub(stored, space + 1) }
    else
      found = { 0, '' }
    end
    states[source] = found
  end
  return found
end

local function refused(request, entry, a, n)
  for i = 0, n - 1 do
    local p = a + 5 * i
    local kind = ARGV[p + 2]
    if kind == 'k' then
      local id = known(tonumber(ARGV[p + 3]))
      if id and sub(id, 1, 32) ~= ARGV[p + 4] then
        return 'C ' .. request .. ' ' .. (entry + i)
      end
    elseif kind == 'p' then
      local space = find(ARGV[p + 4], ' ', 1, true)
      local theirs = state(ARGV[p + 3])[1]
      if theirs > tonumber(sub(ARGV[p + 4], 1, space - 1)) then
        return 'F ' .. request .. ' ' .. (entry + i) .. ' ' .. theirs
      end
    end
  end
end

local function one(entry, p)
  local t, event, kind = tonumber(ARGV[p]), ARGV[p + 1], ARGV[p + 2]
  if kind == 'k' then
    local key = tonumber(ARGV[p + 3])
    local id = known(key)
    if id then
      lines = lines + 1
      answer[lines] = 'R ' .. entry .. ' ' .. sub(id, 33)
      return
    end
    append(t, event)
    id = ARGV[p + 4] .. prefixes[t] .. offsets[t]
    call('SET', KEYS[key], id, 'PX', ARGV[8])
    ids[key] = id
  elseif kind == 'p' then
    local space = find(ARGV[p + 4], ' ', 1, true)
    local source, position = state(ARGV[p + 3]), sub(ARGV[p + 4], space + 1)
    if position <= source[2] then
      lines = lines + 1
      answer[lines] = 'R ' .. entry
      return
    end
    append(t, event)
    source[1], source[2] = tonumber(sub(ARGV[p + 4], 1, space - 1)), position
    moved[ARGV[p + 3]] = source
  else
    append(t, event)
  end
end

local a, request, entry = 10 + 2 * topics, 0, 0
local arguments = #ARGV
while a <= arguments do
  local n = tonumber(ARGV[a])
  a = a + 1
  local why = refused(request, entry, a, n)
  if why then
    lines = lines + 1
    answer[lines] = why
  else
    for i = 0, n - 1 do one(entry + i, a + 5 * i) end
  end
  a, entry, request = a + 5 * n, entry + n, request + 1
end

if sequence > first_sequence then
  call('SET', KEYS[1], generation .. ' ' .. sequence .. ' ' .. bytes % 1e13)
  for t = 1, topics do
    if offsets[t] > before[t] then
      call('SET', KEYS[3 + 2 * t], prefixes[t] .. offsets[t], 'PX', ARGV[5])
      local lifetime = ARGV[9 + 2 * t]
      if lifetime == '0' and before[t] == 0 then lifetime = ARGV[6] end
      if lifetime ~= '0' then call('PEXPIRE', histories[t], lifetime) end
    end
  end
  for source, found in pairs(moved) do call('HSET', sources, source, found[1] .. ' ' .. found[2]) end
end
answer[topics + 1] = sequence
local text = table.concat(answer, '\n')
call('SET', KEYS[3], batch .. ' ' .. text, 'PX', '600000')
return text
