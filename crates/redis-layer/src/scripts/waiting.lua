-- Says how many documents of one partition wait to be flushed, and since when, and hands some of them to one asker at a
-- time.
--
-- KEYS  unflushed documents, who flushes what was left.
-- ARGV  1 asker (empty: asks for all, and hands out to everybody), 2 how long it has them to itself (ms), 3 the time (ms)
--       since which they must have waited, 4 how many at most.
-- Answers the number, the time (ms) since which the oldest waits ('' where there is none), and names.
local call = redis.call
local oldest = call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local answer = { call('ZCARD', KEYS[1]), oldest[2] or '' }
if not oldest[1] or tonumber(oldest[2]) > tonumber(ARGV[3]) then return answer end
if ARGV[1] ~= '' then
  local holder = call('GET', KEYS[2])
  if holder and holder ~= ARGV[1] then return answer end
  call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])
for i = 1, #names do answer[2 + i] = names[i] end
return answer
