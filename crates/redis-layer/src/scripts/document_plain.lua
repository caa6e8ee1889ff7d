-- How a document stands: a hash of its head 'h' and its data 'd'.
local function head_of(key) return redis.call('HGET', key, 'h') end
local function data_of(key) return redis.call('HGET', key, 'd') or '' end
local function put(key, head, data) redis.call('HSET', key, 'h', head, 'd', data) end
local function mark(key, head) redis.call('HSET', key, 'h', head) end
