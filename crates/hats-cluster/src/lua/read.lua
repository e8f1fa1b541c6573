-- read: a definition, its source and modules only if the caller does not have them.
-- KEYS[1]  the definition
-- ARGV     [1] digest of the source the caller has, or ''
--          [2] no longer source is looked at, bytes; its modules count
--          [3] no definition with more fields is looked at for modules
--          [4] ... the fields that are asked for
-- Returns  {} if there is no such hash, else {digest ('' if the source is too long), Source (nil if the caller has it
--          or if it is too long), {field, value, ...} of SourceFile and the modules (empty where Source is absent, and
--          where there are none), {values of the fields that were asked for}}
local key = KEYS[1]
if redis.call('TYPE', key).ok ~= 'hash' then
  return {}
end
-- Hundreds of megabytes that somebody put there by mistake would stall Redis, and with it every session.
local most = tonumber(ARGV[2])
local bytes = redis.call('HSTRLEN', key, 'Source')
local too_long = bytes > most
local source = not too_long and redis.call('HGET', key, 'Source')
local values = redis.call('HMGET', key, unpack(ARGV, 4))
local digest = too_long and '' or redis.sha1hex(source or '')

-- Most sources import nothing, and need no look at all the fields.
local modules = {}
if source and string.find(source, 'import', 1, true) then
  local fields = {}
  if redis.call('HLEN', key) > tonumber(ARGV[3]) then
    too_long = true
  else
    for _, field in ipairs(redis.call('HKEYS', key)) do
      if field == 'SourceFile' or string.sub(field, 1, 7) == 'Module:' then
        fields[#fields + 1] = field
        bytes = bytes + redis.call('HSTRLEN', key, field)
      end
    end
    too_long = bytes > most
  end
  if too_long then
    digest = ''
  elseif #fields > 0 then
    local digests = {}
    for i, field in ipairs(fields) do
      local value = redis.call('HGET', key, field)
      digests[i] = redis.sha1hex(field) .. redis.sha1hex(value)
      modules[2 * i - 1], modules[2 * i] = field, value
    end
    -- A hash knows no order.
    table.sort(digests)
    digest = redis.sha1hex(digest .. table.concat(digests))
  end
end

if too_long or digest == ARGV[1] then
  source, modules = false, {}
end
return { digest, source, modules, values }
