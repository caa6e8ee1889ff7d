-- How a document stands: a value of RedisJSON with its 'head' and its 'data', and 'text' where the data's text would not
-- come back as it was written. One that was written before the module was there is a hash, until it is written again.
-- A value's text is answered behind a 'J', since a hash's data begins with a brace.
local function is_error(answer) return type(answer) == 'table' and answer.err end
local function head_of(key)
  local head = redis.pcall('JSON.GET', key, '.head')
  if is_error(head) then return redis.call('HGET', key, 'h') end
  return head and string.sub(head, 2, -2)
end
local function data_of(key)
  local value = redis.pcall('JSON.GET', key, '.')
  if is_error(value) then return redis.call('HGET', key, 'd') or '' end
  return value and 'J' .. value or ''
end
local function put(key, _, value)
  if is_error(redis.pcall('JSON.SET', key, '$', value)) then
    if redis.call('TYPE', key).ok == 'hash' then redis.call('UNLINK', key) end
    redis.call('JSON.SET', key, '$', value)
  end
end
local function mark(key, head) put(key, head, '{"head":"' .. head .. '"}') end
