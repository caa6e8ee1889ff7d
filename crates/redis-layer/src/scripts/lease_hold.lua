-- Makes a claim to a lease the lease.
--
-- KEYS  the lease.
-- ARGV  1 the claim, 2 the lease's value, 3 its length (ms).
-- Answers whether the claim still stood.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
