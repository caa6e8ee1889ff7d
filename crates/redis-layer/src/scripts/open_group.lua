-- Names a group of side-effect readers, which begins at the partition's head.
--
-- KEYS  meta, groups.
-- ARGV  1 generation, 2 group.
if redis.call('HGET', KEYS[1], 'g') ~= ARGV[1] then return 'G' end
redis.call('HSETNX', KEYS[2], ARGV[2], redis.call('HGET', KEYS[1], 's') or '0')
return 'O'
