-- Puts a member into a place.
--
-- KEYS  1 members by socket, 2 their sockets in order, 3 places that have members; but for channels 4 clients with
--       their sockets.
-- ARGV  1 place's name, 2 socket, 3 since when, 4 instance, 5 client, 6 data.
-- Answers whether it is new (0 or 1) and since when it is there; behind that, but for channels, each entry of the same
-- client by another instance: its socket, and the member.
local name, socket, instance, client = ARGV[1], ARGV[2], ARGV[4], ARGV[5]
local held = redis.call('HGET', KEYS[1], socket)
local since = held and string.match(held, '^%-?%d+') or ARGV[3]
local answer = { held and 0 or 1, since }
if KEYS[4] then
  local first, last = '[' .. client .. '\n', '(' .. client .. '\11'
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', KEYS[4], first, last, 'LIMIT', 0, 1000)) do
    local other = string.sub(entry, #client + 2)
    local there = redis.call('HGET', KEYS[1], other)
    if there and string.match(there, '^%S+ (%S+)') ~= instance and #answer < 202 then
      answer[#answer + 1] = other
      answer[#answer + 1] = there
    end
  end
  if held then
    local length, rest = string.match(held, '^%S+ %S+ (%d+) (.*)$')
    redis.call('ZREM', KEYS[4], string.sub(rest, 1, length) .. '\n' .. socket)
  end
  redis.call('ZADD', KEYS[4], 0, client .. '\n' .. socket)
end
redis.call('HSET', KEYS[1], socket, since .. ' ' .. instance .. ' ' .. #client .. ' ' .. client .. ARGV[6])
redis.call('ZADD', KEYS[2], 0, socket)
redis.call('ZADD', KEYS[3], 0, name)
return answer
