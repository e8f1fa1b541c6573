-- edit: sets and removes fields of a hash, only if it still exists.
-- KEYS[1]  a definition or a worker's row
-- ARGV     [1] number of fields to set, then field and value for each, then the fields to remove
-- Returns  {'EDITED'} or {'GONE'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
if redis.call('EXISTS', key) == 0 then
  return { 'GONE' }
end
local last = 1 + 2 * tonumber(ARGV[1])
for i = 2, last, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
for i = last + 1, #ARGV do
  redis.call('HDEL', key, ARGV[i])
end
return { 'EDITED' }
