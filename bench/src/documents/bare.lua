-- The Redis commands of one document's write, with ready-made arguments and nothing between them.
--
-- KEYS  1 meta, 2 side-effect stream, 3 the writer's last answer, 4 unflushed documents, 5 head and 6 history of the
--       event's topic, 7 document, 8 its unflushed revisions.
-- ARGV  1 a position, 2 document's head, 3 its data, 4 number and 5 record of its revision, 6 event, 7 channel,
--       8 document's name, 9 now (ms).
local call = redis.call
call('GET', KEYS[1]) call('GET', KEYS[3]) call('GET', KEYS[5]) call('HGET', KEYS[7], 'h')
call('HSET', KEYS[7], 'h', ARGV[2], 'd', ARGV[3])
call('HSET', KEYS[8], ARGV[4], ARGV[5])
call('XADD', KEYS[6], '*', 'e', ARGV[6])
call('XADD', KEYS[2], '*', 'e', ARGV[6])
call('PUBLISH', ARGV[7], ARGV[6])
call('ZADD', KEYS[4], 'NX', ARGV[9], ARGV[8])
call('PERSIST', KEYS[7])
call('SET', KEYS[1], ARGV[1])
call('SET', KEYS[5], ARGV[1], 'PX', '87300000')
call('SET', KEYS[3], ARGV[1], 'PX', '600000')
return ARGV[3]
