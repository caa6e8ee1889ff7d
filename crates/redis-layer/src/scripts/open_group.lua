-- Names a group of side-effect readers, which begins at the partition's head.
--
-- KEYS  meta, groups.
-- ARGV  1 generation, 2 group.
local meta = redis.call('GET', KEYS[1]) or ''
if string.sub(meta, 1, 8) ~= ARGV[1] then return 'G' end
redis.call('HSETNX', KEYS[2], ARGV[2], string.match(meta, ' (%d+) '))
return 'O'
