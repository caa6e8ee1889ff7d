-- Forgets revisions that were flushed. A document of which none is left is clean, and lives as long as it is used.
--
-- KEYS  meta, unflushed documents; then document and unflushed revisions of each.
-- ARGV  1 generation, 2 now (ms), 3 lifetime of what is flushed (ms); then for each document its name, the number of
--       its revisions, and these.
-- Answers 'G' for another generation, else 'O'.
local call = redis.call
if string.sub(call('GET', KEYS[1]) or '', 1, 8) ~= ARGV[1] then return 'G' end
local a, clean = 4, {}
for k = 3, #KEYS, 2 do
  local name, count = ARGV[a], tonumber(ARGV[a + 1])
  if count > 0 then call('HDEL', KEYS[k + 1], unpack(ARGV, a + 2, a + 1 + count)) end
  if call('EXISTS', KEYS[k + 1]) == 0 then
    clean[#clean + 1] = name
    call('PEXPIRE', KEYS[k], ARGV[3])
  else
    call('ZADD', KEYS[2], 'XX', ARGV[2], name)
  end
  a = a + 2 + count
end
if #clean > 0 then call('ZREM', KEYS[2], unpack(clean)) end
return 'O'
