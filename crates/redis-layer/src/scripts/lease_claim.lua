-- Claims a lease that nobody holds.
--
-- KEYS  the lease.
-- ARGV  1 the claim, 2 its length (ms).
-- Answers nil where it is claimed now, else for how long it is held or claimed yet (ms).
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return nil end
return redis.call('PTTL', KEYS[1])
