-- Forgets documents of one partition whole, because the tenant to whom they belonged is gone.
--
-- KEYS  meta, unflushed documents; then document and unflushed revisions of each.
-- ARGV  1 generation; then the name of each.
-- Answers 'G' for another generation, else 'O'.
if string.sub(redis.call('GET', KEYS[1]) or '', 1, 8) ~= ARGV[1] then return 'G' end
for k = 3, #KEYS, 2 do
  redis.call('UNLINK', KEYS[k], KEYS[k + 1])
  redis.call('ZREM', KEYS[2], ARGV[(k + 1) / 2])
end
return 'O'
