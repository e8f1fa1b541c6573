-- mended: removes Error and ErrorTime of a definition, if nobody has written others meanwhile.
-- KEYS[1]  the definition
-- ARGV     [1] ErrorTime as it was seen; '' = there was none
-- Returns  {'MENDED'} or {'OTHER'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if (redis.call('HGET', key, 'ErrorTime') or '') ~= ARGV[1] then
  return { 'OTHER' }
end
redis.call('HDEL', key, 'Error', 'ErrorTime')
return { 'MENDED' }
