-- close: ends a session in good order. By its own process, once nothing runs under it.
-- KEYS[1]  the session
-- Returns  {'CLOSED'}, {'DEAD'} if it was dead before, {'GONE'} if there is no such session
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('EXISTS', key) == 0 then
  return { 'GONE' }
end
if redis.call('HGET', key, 'State') == 'dead' then
  return { 'DEAD' }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', key, 'State', 'dead', 'End', 'closed', 'Ended', string.format('%.0f', now))
return { 'CLOSED' }
