-- The Redis commands of appending one partition's events, with ready-made arguments and nothing between them.
--
-- KEYS  1 meta, 2 side-effect stream, 3 the writer's last answer; then head and history of each topic.
-- ARGV  1 a position; then for each topic its channel, the number of its events, and these.
local call = redis.call
call('GET', KEYS[1]) call('GET', KEYS[3])
local side, a = KEYS[2], 2
for k = 4, #KEYS, 2 do
  call('GET', KEYS[k])
  local history, channel, last = KEYS[k + 1], ARGV[a], a + 1 + ARGV[a + 1]
  for i = a + 2, last do
    call('XADD', history, '*', 'e', ARGV[i])
    call('XADD', side, '*', 'e', ARGV[i])
    call('PUBLISH', channel, ARGV[i])
  end
  call('SET', KEYS[k], ARGV[1], 'PX', '87300000')
  a = last + 1
end
call('SET', KEYS[1], ARGV[1])
call('SET', KEYS[3], ARGV[1], 'PX', '600000')
return ARGV[1]
