-- Brings one topic's history back within its bounds, oldest first.
--
-- KEYS  history.
-- ARGV  1 events at most, 2 bytes at most, 3 the time (ms) before which events go.
-- Answers how many events went.
local key = KEYS[1]
local before = redis.call('XLEN', key)
if before == 0 then return 0 end
local function number(id) return tonumber(string.sub(id, 1, string.find(id, '-', 1, true) - 1)) end
local function time(id) return tonumber(string.sub(id, string.find(id, '-', 1, true) + 1)) end
local function first(from)
  local found = redis.call('XRANGE', key, from, '+', 'COUNT', 1)[1]
  return found and found[1]
end
local allowed, cutoff = tonumber(ARGV[1]), tonumber(ARGV[3])
local used = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 8)
if used > tonumber(ARGV[2]) then
  allowed = math.min(allowed, math.floor(before * tonumber(ARGV[2]) / used * 0.9))
end
if before > allowed then redis.call('XTRIM', key, 'MAXLEN', allowed) end
local oldest = first('-')
if oldest and time(oldest) < cutoff then
  local low, high = number(oldest), number(redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1][1]) + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = first(string.format('%.0f', middle))
    if found and time(found) < cutoff then low = number(found) + 1 else high = middle end
  end
  redis.call('XTRIM', key, 'MINID', string.format('%.0f', low))
end
return before - redis.call('XLEN', key)
