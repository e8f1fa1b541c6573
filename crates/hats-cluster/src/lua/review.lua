-- review: what the definition of a task that is set aside says now. Meanwhile nobody runs it, so what changes in it
-- somebody else has changed: another source ends the row of crashes, and so does disabling and enabling it again.
-- KEYS[1]  the poison record of the task
-- ARGV     [1] Until as seen before the definition was read  [2] digest of its source  [3] 'enabled' or 'disabled'
-- Returns  {'CLEARED' | 'KEPT', deaths, until ms, reason, source, server ms}
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(n)
  return string.format('%.0f', n)
end
local at = redis.call('HMGET', key, 'Deaths', 'Until', 'Reason', 'Source', 'Off')
local until_ = tonumber(at[2]) or 0
local is_set_aside = now < until_ and until_ <= now + 600000
if not is_set_aside or at[2] ~= ARGV[1] then
  return { 'KEPT', at[1] or '0', at[2] or '0', at[3] or '', at[4] or '', text(now) }
end
if at[4] ~= ARGV[2] or (at[5] and ARGV[3] == 'enabled') then
  redis.call('HDEL', key, 'Deaths', 'Until', 'Reason', 'Source', 'Last', 'Beside', 'Off')
  redis.call('HSET', key, 'Cleared', text(now))
  redis.call('PEXPIRE', key, 86400000)
  return { 'CLEARED', '0', '0', '', '', text(now) }
end
if ARGV[3] == 'disabled' and not at[5] then
  redis.call('HSET', key, 'Off', '1')
end
return { 'KEPT', at[1] or '0', at[2], at[3] or '', at[4] or '', text(now) }
