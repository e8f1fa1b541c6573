-- put: registers a script. A different Source is replaced, a missing Status set; Status disabled is left alone.
-- A further field that is empty is removed, but not a module, which may be empty.
-- UPDATED: the source or one of the further fields was another. The modules are a part of the source: those that are
-- not among the further fields go.
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
local given = {}
for i = 2, #ARGV, 2 do
  given[ARGV[i]] = true
  local old = redis.call('HGET', key, ARGV[i])
  local remove = ARGV[i + 1] == '' and string.sub(ARGV[i], 1, 7) ~= 'Module:'
  if remove and old or not remove and old ~= ARGV[i + 1] then
    if remove then
      redis.call('HDEL', key, ARGV[i])
    else
      redis.call('HSET', key, ARGV[i], ARGV[i + 1])
    end
    if outcome == 'UNCHANGED' then
      outcome = 'UPDATED'
    end
  end
end
for _, field in ipairs(redis.call('HKEYS', key)) do
  if not given[field] and (field == 'SourceFile' or string.sub(field, 1, 7) == 'Module:') then
    redis.call('HDEL', key, field)
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
