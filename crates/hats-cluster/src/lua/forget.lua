-- forget: removes a session that has been dead for an hour. The caller has seen that nothing names it.
-- KEYS[1]  the session
-- Returns  {'FORGOTTEN'} (also if there was none) or {'KEPT'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('EXISTS', key) == 0 then
  return { 'FORGOTTEN' }
end
local at = redis.call('HMGET', key, 'State', 'Ended')
if at[1] ~= 'dead' then
  return { 'KEPT' }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ended = tonumber(at[2]) or 0
-- An end in the future: the clock was moved back, the hour counts as passed.
if ended <= now and now < ended + 3600000 then
  return { 'KEPT' }
end
redis.call('DEL', key)
return { 'FORGOTTEN' }
