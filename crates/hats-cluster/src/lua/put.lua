-- put: registers a script. A different Source is replaced, a missing Status set; Status disabled is left alone.
-- UPDATED: the source or one of the further fields was another.
-- KEYS[1]  the definition
-- ARGV     [1] Source, then name and value of each further field to set
-- Returns  {'CREATED' | 'UPDATED' | 'UNCHANGED', Status}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local source = redis.call('HGET', key, 'Source')
local outcome = 'UNCHANGED'
if not source then
  outcome = 'CREATED'
elseif source ~= ARGV[1] then
  outcome = 'UPDATED'
end
if outcome ~= 'UNCHANGED' then
  redis.call('HSET', key, 'Source', ARGV[1])
end
for i = 2, #ARGV, 2 do
  if redis.call('HGET', key, ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
    if outcome == 'UNCHANGED' then
      outcome = 'UPDATED'
    end
  end
end
local status = redis.call('HGET', key, 'Status')
if not status or status == '' then
  status = 'enabled'
  redis.call('HSET', key, 'Status', status)
end
return { outcome, status }
