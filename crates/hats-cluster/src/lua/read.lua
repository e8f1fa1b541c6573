-- read: a definition, its source only if the caller does not have it.
-- KEYS[1]  the definition
-- ARGV     [1] digest of the source the caller has, or ''
--          [2] no longer source is looked at, bytes
-- Returns  {} if there is no such hash, else {digest ('' if the source is too long), Source (nil if the caller has it
--          or if it is too long), Status, Hang, Restart, Requires, MemoryLimit, StackLimit, CallTimeout, SourceLimit,
--          LogLineLimit, RestartAt, State, Owner, Heartbeat, Error, ErrorTime}
local key = KEYS[1]
if redis.call('TYPE', key).ok ~= 'hash' then
  return {}
end
-- Hundreds of megabytes that somebody put there by mistake would stall Redis, and with it every session.
local too_long = redis.call('HSTRLEN', key, 'Source') > tonumber(ARGV[2])
local at = redis.call('HMGET', key, too_long and '-' or 'Source', 'Status', 'Hang', 'Restart', 'Requires', 'MemoryLimit',
  'StackLimit', 'CallTimeout', 'SourceLimit', 'LogLineLimit', 'RestartAt', 'State', 'Owner', 'Heartbeat', 'Error', 'ErrorTime')
local digest = too_long and '' or redis.sha1hex(at[1] or '')
if too_long or digest == ARGV[1] then
  at[1] = false
end
return { digest, at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], at[9], at[10], at[11], at[12], at[13], at[14],
  at[15], at[16] }
