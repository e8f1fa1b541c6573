-- bury: declares a session dead, once and for ever. The caller has watched Beat and Expiry stay unchanged for O.
-- KEYS[1]  the session
-- ARGV     [1] Beat as seen  [2] Expiry as seen
-- Returns  {'BURIED' | 'DEAD' (before this call), how it ended, server ms of the end, suspects},
--          {'MOVED', beat, expiry ms}, {'NOTYET', server ms, expiry ms} or {'GONE'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('EXISTS', key) == 0 then
  return { 'GONE' }
end
local at = redis.call('HMGET', key, 'State', 'Beat', 'Expiry', 'LeaseMs', 'End', 'Ended', 'Suspect')
if at[1] == 'dead' then
  return { 'DEAD', at[5] or 'buried', at[6] or '0', at[7] or '' }
end
local beat, expiry, lease = tonumber(at[2]) or 0, tonumber(at[3]) or 0, tonumber(at[4]) or 0
if beat ~= tonumber(ARGV[1]) or expiry ~= tonumber(ARGV[2]) then
  return { 'MOVED', string.format('%.0f', beat), string.format('%.0f', expiry) }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_text = string.format('%.0f', now)
-- An Expiry further ahead than a renewal could have set it: the clock was moved back, it counts as passed.
if now < expiry and expiry <= now + lease then
  return { 'NOTYET', now_text, string.format('%.0f', expiry) }
end
redis.call('HSET', key, 'State', 'dead', 'End', 'buried', 'Ended', now_text)
return { 'BURIED', 'buried', now_text, at[7] or '' }
