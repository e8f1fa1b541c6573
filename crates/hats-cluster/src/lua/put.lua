-- put: registers a script. A different Source is replaced, a missing Status set; Status disabled is left alone.
-- KEYS[1]  the definition
-- ARGV     [1] Source
-- Returns  {'CREATED' | 'UPDATED' | 'UNCHANGED', Status}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local at = redis.call('HMGET', key, 'Source', 'Status')
local outcome = 'UNCHANGED'
if not at[1] then
  outcome = 'CREATED'
elseif at[1] ~= ARGV[1] then
  outcome = 'UPDATED'
end
if outcome ~= 'UNCHANGED' then
  redis.call('HSET', key, 'Source', ARGV[1])
end
local status = at[2]
if not status or status == '' then
  status = 'enabled'
  redis.call('HSET', key, 'Status', status)
end
return { outcome, status }
