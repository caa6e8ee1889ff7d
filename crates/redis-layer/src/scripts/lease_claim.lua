-- Claims a lease that nobody holds.
--
-- KEYS  the lease.
-- ARGV  1 the claim, 2 its length (ms).
-- Answers nil where the claim stands now, else for how long the lease is held or claimed yet (ms).
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return redis.call('PTTL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return nil
