-- Gives a partition a generation.
--
-- KEYS  meta.
-- ARGV  1 generation.
-- Answers the partition's sequence.
redis.call('HSET', KEYS[1], 'g', ARGV[1])
return redis.call('HGET', KEYS[1], 's') or '0'
