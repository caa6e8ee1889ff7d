-- Moves a group's place forward.
--
-- KEYS  groups.
-- ARGV  1 group, 2 sequence.
local done = redis.call('HGET', KEYS[1], ARGV[1])
if not done or tonumber(done) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 'O'
