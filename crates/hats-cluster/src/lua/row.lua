-- row: writes fields of a worker's row.
-- KEYS[1]  the row
-- ARGV     [1] time to live, ms, or '0' for none, then field and value for each field
-- Returns  {'WRITTEN'}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
for i = 2, #ARGV, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
local ttl = tonumber(ARGV[1])
if ttl > 0 then
  redis.call('PEXPIRE', key, ttl)
else
  redis.call('PERSIST', key)
end
return { 'WRITTEN' }
