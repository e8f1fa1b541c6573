-- claim: makes a session the owner of a thread, if it is free or its owner is known to be dead.
-- KEYS[1]  the claim
-- ARGV     [1] session  [2] nonce  [3] the session known to be dead, or ''
--          [4] how that ended: 'buried', 'closed', 'gone' or ''  [5] server ms of that end
--          [6] whom its watchdog had named: 'nobody', 'this' thread or 'other' threads only
--          [7] digest of the source  [8] RestartAt of the definition, or ''
-- Returns  {'GRANTED', epoch, restarts, deaths, server ms of the grant, server ms now}
--          {'HELD', session or '', nonce}
--          {'BACKOFF', server ms of the next start, server ms now}
--          {'PREFER', session, until server ms, server ms now}
--          {'POISON', until server ms, server ms now, '1' if this very call has marked it}
-- A refusal changes nothing, with one exception: the third death frees and marks the thread.
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

local session, nonce, dead, ending, ended, named, digest, restart_at =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], number(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]
local at = redis.call('HMGET', key, 'Session', 'Claim', 'Epoch', 'Claimed', 'NextStart', 'Source', 'RestartAt',
  'Restarts', 'Deaths', 'Poison', 'Prefer', 'PreferUntil')
local owner, last_nonce, epoch, claimed = at[1], at[2], number(at[3]), number(at[4])
local next_start, restarts, deaths, poison = number(at[5]), number(at[8]), number(at[9]), number(at[10])

if owner and owner == session and last_nonce == nonce then
  return { 'GRANTED', text(epoch), text(restarts), text(deaths), text(claimed), text(now) }
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
  next_start, restarts, deaths, poison = 0, 0, 0, 0
elseif owner then
  -- The owner has died with it. It counts if the watchdog has named this thread, or, where it named none, if a peer
  -- had to bury the session soon after the claim. A claim that came in after the burial has run nothing.
  local lived = ended - claimed
  if lived > 60000 then
    restarts = 0
  end
  if named == 'this' or (named == 'nobody' and ending == 'buried' and lived >= 0 and lived <= 60000) then
    deaths = deaths + 1
    if deaths >= 3 then
      poison = now + 600000
      redis.call('HDEL', key, 'Session', 'Prefer', 'PreferUntil', 'NextStart')
      redis.call('HSET', key, 'Deaths', text(deaths), 'Poison', text(poison))
      return { 'POISON', text(poison), text(now), '1' }
    end
  elseif named ~= 'other' and lived > 60000 then
    deaths = 0
  end
end
if ahead(poison, 600000) then
  return { 'POISON', text(poison), text(now), '0' }
end
if poison > 0 then
  restarts, deaths = 0, 0
end
if not owner then
  if ahead(next_start, 60000) then
    return { 'BACKOFF', text(next_start), text(now) }
  end
  local until_ = number(at[12])
  if at[11] and at[11] ~= session and ahead(until_, 10000) then
    return { 'PREFER', at[11], text(until_), text(now) }
  end
end

epoch = math.max(epoch + 1, now)
redis.call('PERSIST', key)
redis.call('HDEL', key, 'NextStart', 'Poison', 'Prefer', 'PreferUntil')
redis.call('HSET', key, 'Session', session, 'Claim', nonce, 'Epoch', text(epoch), 'Claimed', text(now), 'Source',
  digest, 'RestartAt', restart_at, 'Restarts', text(restarts), 'Deaths', text(deaths))
return { 'GRANTED', text(epoch), text(restarts), text(deaths), text(now), text(now) }
