-- suspect: the watchdog names the threads that are stuck. Beat stays as it is.
-- KEYS[1]  the session
-- ARGV     [1] names, one a line
-- Returns  {'NAMED'} or {'GONE'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('EXISTS', key) == 0 then
  return { 'GONE' }
end
redis.call('HSET', key, 'Suspect', ARGV[1])
return { 'NAMED' }
