-- claim: makes a session the owner of a thread, if it is free or its owner is known to be dead.
-- KEYS[1]  the claim
-- ARGV     [1] session  [2] nonce  [3] the session known to be dead, or ''
--          [4] server ms of that end  [5] digest of the source  [6] RestartAt of the definition, or ''
-- Returns  {'GRANTED', epoch, restarts, server ms of the grant, server ms now}
--          {'HELD', session or '', nonce}
--          {'BACKOFF', server ms of the next start, server ms now}
--          {'PREFER', session, until server ms, server ms now}
-- A refusal changes nothing.
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A number of ours, or 0 for whatever is none.
local function number(value)
  local n = tonumber(value)
  if n and n >= 0 and n < 9007199254740992 then
    return math.floor(n)
  end
  return 0
end
local function text(n)
  return string.format('%.0f', n)
end
-- An instant that has not come yet. One further ahead than it could have been set counts as passed.
local function ahead(instant, most)
  return now < instant and instant <= now + most
end

local session, nonce, dead, ended, digest, restart_at = ARGV[1], ARGV[2], ARGV[3], number(ARGV[4]), ARGV[5], ARGV[6]
local at = redis.call('HMGET', key, 'Session', 'Claim', 'Epoch', 'Claimed', 'NextStart', 'Source', 'RestartAt',
  'Restarts', 'Prefer', 'PreferUntil')
local owner, last_nonce, epoch, claimed = at[1], at[2], number(at[3]), number(at[4])
local next_start, restarts = number(at[5]), number(at[8])

if owner and owner == session and last_nonce == nonce then
  return { 'GRANTED', text(epoch), text(restarts), text(claimed), text(now) }
end
if owner and (dead == '' or owner ~= dead) then
  return { 'HELD', owner, last_nonce or '' }
end
if last_nonce == nonce then
  -- It was released, or never granted and given up: it never becomes a grant any more.
  return { 'HELD', owner or '', nonce }
end

-- Another source than the one that failed, or an operator's restart: no failure of the past counts.
local changed = at[6] and (at[6] ~= digest or (at[7] or '') ~= restart_at)
if changed then
  next_start, restarts = 0, 0
elseif owner and ended - claimed > 60000 then
  restarts = 0
end
if not owner then
  if ahead(next_start, 60000) then
    return { 'BACKOFF', text(next_start), text(now) }
  end
  local until_ = number(at[10])
  if at[9] and at[9] ~= session and ahead(until_, 10000) then
    return { 'PREFER', at[9], text(until_), text(now) }
  end
end

epoch = math.max(epoch + 1, now)
redis.call('PERSIST', key)
redis.call('HDEL', key, 'NextStart', 'Prefer', 'PreferUntil')
redis.call('HSET', key, 'Session', session, 'Claim', nonce, 'Epoch', text(epoch), 'Claimed', text(now), 'Source',
  digest, 'RestartAt', restart_at, 'Restarts', text(restarts))
return { 'GRANTED', text(epoch), text(restarts), text(now), text(now) }
