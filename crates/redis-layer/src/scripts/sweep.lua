-- Removes what every group has done from a partition's side-effect stream.
--
-- KEYS  meta, side-effect stream, groups.
-- ARGV  1 entries that stay where there is no group.
-- Answers the bytes that are left.
local done
for _, acknowledged in ipairs(redis.call('HVALS', KEYS[3])) do
  local number = tonumber(acknowledged)
  if not done or number < done then done = number end
end
if done then
  redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', done + 1), 'LIMIT', 0)
else
  redis.call('XTRIM', KEYS[2], 'MAXLEN', '~', ARGV[1], 'LIMIT', 0)
end
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if not oldest then return 0 end
local total = tonumber(string.match(redis.call('GET', KEYS[1]) or '', ' (%d+)$') or 0)
return (total - tonumber(string.match(oldest[1], '%-(%d+)$'))) % 1e13
