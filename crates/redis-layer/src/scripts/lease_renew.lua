-- Renews a lease.
--
-- KEYS  the lease.
-- ARGV  1 its term, 2 its length (ms).
-- Answers 'R' renewed, 'G' nobody holds it, 'C' it is claimed, 'T' another term holds it.
local held = redis.call('GET', KEYS[1])
if not held then return 'G' end
if string.sub(held, 1, 1) == '?' then return 'C' end
if string.match(held, '^(%d+) ') ~= ARGV[1] then return 'T' end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'R'
