-- Gives a partition a generation.
--
-- KEYS  meta.
-- ARGV  1 generation.
local meta = redis.call('GET', KEYS[1]) or '00000000 0 0'
redis.call('SET', KEYS[1], ARGV[1] .. string.sub(meta, 9))
