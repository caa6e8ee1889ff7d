-- Drops a lease, or a claim to one, and says so.
--
-- KEYS  the lease.
-- ARGV  1 what its value begins with, 2 the command that publishes, or nothing where nobody is to be told, 3 the
--       channel, 4 what is told there.
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[2] ~= '' then redis.call(ARGV[2], ARGV[3], ARGV[4]) end
return 1
