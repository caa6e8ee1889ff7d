-- Reads a document, and lets it live on.
--
-- KEYS  document.
-- ARGV  1 its lifetime (ms).
-- Answers its head and its value, or nothing.
local head = head_of(KEYS[1])
if not head then return {} end
redis.call('PEXPIRE', KEYS[1], ARGV[1], 'XX')
return { head, data_of(KEYS[1]) }
