-- absolve: an operator has enabled a task: no crash of the past counts against it.
-- KEYS[1]  the poison record of the task
-- Returns  {'CLEARED'} or {'NONE'}
-- When that was is kept for a day: crashes from before may be reported later.
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('EXISTS', key) == 0 then
  return { 'NONE' }
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HDEL', key, 'Deaths', 'Until', 'Reason', 'Source', 'Last', 'Beside', 'Off')
redis.call('HSET', key, 'Cleared', now)
redis.call('PEXPIRE', key, 86400000)
return { 'CLEARED' }
