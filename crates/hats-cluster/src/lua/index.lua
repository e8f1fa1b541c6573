-- index: adds members to a set.
-- KEYS[1]  the set
-- ARGV     the members
-- Returns  {'ADDED', how many are new}
local key = KEYS[1]
redis.call('SREM', key, '') -- no member is ever empty; see open
local new = 0
for i = 1, #ARGV do
  new = new + redis.call('SADD', key, ARGV[i])
end
return { 'ADDED', string.format('%.0f', new) }
