-- Takes members out of a place, which leaves the list of places with its last one.
--
-- KEYS  1 members by socket, 2 their sockets in order, 3 places that have members; but for channels 4 clients with
--       their sockets.
-- ARGV  1 place's name, 2 the instance that must hold them, or nothing, then their sockets.
-- Answers each member that was taken out, and nil for the others.
local instance = ARGV[2]
local removed = {}
for i = 3, #ARGV do
  local socket, taken = ARGV[i], false
  local held = redis.call('HGET', KEYS[1], socket)
  if held then
    local holder, length, rest = string.match(held, '^%S+ (%S+) (%d+) (.*)$')
    if instance == '' or holder == instance then
      redis.call('HDEL', KEYS[1], socket)
      redis.call('ZREM', KEYS[2], socket)
      if KEYS[4] then redis.call('ZREM', KEYS[4], string.sub(rest, 1, length) .. '\n' .. socket) end
      taken = held
    end
  end
  removed[i - 2] = taken
end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[3], ARGV[1]) end
return removed
