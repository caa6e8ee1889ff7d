-- Reads a group's next entries. A group whose place was lost with the server's data begins at the oldest entry.
--
-- KEYS  side-effect stream, groups.
-- ARGV  1 group, 2 entries at most.
local done = redis.call('HGET', KEYS[2], ARGV[1])
if not done then
  done = '0'
  redis.call('HSET', KEYS[2], ARGV[1], done)
end
return redis.call('XRANGE', KEYS[1], string.format('%.0f', tonumber(done) + 1), '+', 'COUNT', ARGV[2])
