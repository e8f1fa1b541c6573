-- retire: the definition is gone; the claim follows in 24 hours, unless somebody alive owns the thread.
-- KEYS[1]  the claim
-- ARGV     [1] the session known to be dead, or ''
-- Returns  {'RETIRED'} or {'KEPT'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local owner = redis.call('HGET', key, 'Session')
if owner and owner ~= ARGV[1] then
  return { 'KEPT' }
end
if redis.call('PTTL', key) == -1 then
  redis.call('PEXPIRE', key, 86400000)
end
return { 'RETIRED' }
