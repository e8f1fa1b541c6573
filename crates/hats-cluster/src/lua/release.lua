-- release: gives a thread up, by the nonce of its claim. Only after the script has really stopped.
-- KEYS[1]  the claim
-- ARGV     [1] nonce  [2] 'free' or 'crashed'  [3] back-off, ms  [4] failures in a row, for 'crashed'
--          [5] the session to prefer, or ''  [6] for how long, ms  [7] '1' if the definition is gone
--          [8] digest of what ran, or ''  [9] RestartAt of what ran
-- Returns  {'RELEASED', epoch} or {'NOTHELD'}
-- A nonce that holds nothing is written down where it can be, so that a claim with it that is still on its way is
-- answered HELD.
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local day = 86400000
local at = redis.call('HMGET', key, 'Session', 'Claim', 'Claimed', 'Epoch')
local function text(n)
  return string.format('%.0f', n)
end
if not at[1] or at[2] ~= ARGV[1] then
  if not at[1] and at[2] ~= ARGV[1] then
    local new = redis.call('EXISTS', key) == 0
    redis.call('HSET', key, 'Claim', ARGV[1])
    if new then
      redis.call('PEXPIRE', key, day)
    end
  end
  return { 'NOTHELD' }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HDEL', key, 'Session')
if ARGV[2] == 'crashed' then
  redis.call('HSET', key, 'Restarts', ARGV[4])
  local back_off = math.min(tonumber(ARGV[3]), 60000)
  if back_off > 0 then
    redis.call('HSET', key, 'NextStart', text(now + back_off))
  end
elseif now - (tonumber(at[3]) or 0) > 60000 then
  redis.call('HDEL', key, 'Restarts')
end
if ARGV[5] ~= '' then
  redis.call('HSET', key, 'Prefer', ARGV[5], 'PreferUntil', text(now + math.min(tonumber(ARGV[6]), 10000)))
end
if ARGV[8] ~= '' then
  redis.call('HSET', key, 'Source', ARGV[8], 'RestartAt', ARGV[9])
end
if ARGV[7] == '1' then
  redis.call('PEXPIRE', key, day)
end
return { 'RELEASED', at[4] or '0' }
