-- suspect: the watchdog names the tasks that stall a session, or takes that back. Beat stays as it is.
-- KEYS[1]  the session
-- ARGV     [1] one a line: kind, name and reason, parted by tabs; '' for none
-- Returns  {'NAMED'} or {'GONE'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('EXISTS', key) == 0 then
  return { 'GONE' }
end
if ARGV[1] == '' then
  redis.call('HDEL', key, 'Suspect')
else
  redis.call('HSET', key, 'Suspect', ARGV[1])
end
return { 'NAMED' }
