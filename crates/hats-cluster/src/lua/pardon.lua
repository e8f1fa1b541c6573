-- pardon: an operator ends the back-off of a thread that nobody owns.
-- KEYS[1]  the claim
-- Returns  {'PARDONED'} or {'HELD'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('HEXISTS', key, 'Session') == 1 then
  return { 'HELD' }
end
redis.call('HDEL', key, 'NextStart', 'Restarts')
return { 'PARDONED' }
