-- prefer: says who is to claim a thread that nobody owns, for a while.
-- KEYS[1]  the claim
-- ARGV     [1] the session  [2] for how long, ms
-- Returns  {'PREFERRED'} or {'HELD'}
-- Where there is no claim yet, what is written goes by itself if the thread never comes.
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local day = 86400000
if redis.call('HEXISTS', key, 'Session') == 1 then
  return { 'HELD' }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local new = redis.call('EXISTS', key) == 0
local till = string.format('%.0f', now + math.min(tonumber(ARGV[2]), 10000))
redis.call('HSET', key, 'Prefer', ARGV[1], 'PreferUntil', till)
if new then
  redis.call('PEXPIRE', key, day)
end
return { 'PREFERRED' }
