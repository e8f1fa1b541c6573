-- hset_fenced: HSET that a later owner's epoch shuts out.
-- KEYS[1] the hash
-- ARGV[1] epoch of the writer, ARGV[2..] field, value, field, value, ...
-- Returns the number of fields added; an error STALE when a newer epoch has written that hash.
local stored = redis.call('HGET', KEYS[1], '__epoch')
if stored and tonumber(stored) and tonumber(stored) > tonumber(ARGV[1]) then
  return redis.error_reply('STALE ' .. stored .. ' has written this hash, the writer has ' .. ARGV[1])
end
local added = 0
for n = 2, #ARGV, 2 do
  added = added + redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 1])
end
redis.call('HSET', KEYS[1], '__epoch', ARGV[1])
return added
