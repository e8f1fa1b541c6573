-- renew: moves Beat and Expiry of a session, only while it is alive.
-- KEYS[1]  the session
-- ARGV     [1] threads it has  [2] '1' if it takes new ones, else '0'
-- Returns  {'RENEWED', beat, expiry ms, server ms} or {'LOST'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local at = redis.call('HMGET', key, 'State', 'Beat', 'LeaseMs')
local lease = tonumber(at[3])
if at[1] ~= 'alive' or not lease then
  return { 'LOST' }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local beat = string.format('%.0f', (tonumber(at[2]) or 0) + 1)
local expiry = string.format('%.0f', now + lease)
redis.call('HSET', key, 'Beat', beat, 'Expiry', expiry, 'Load', ARGV[1], 'Ready', ARGV[2])
return { 'RENEWED', beat, expiry, string.format('%.0f', now) }
