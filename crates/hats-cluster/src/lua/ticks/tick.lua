-- tick: decides one tick of a job, once for ever, and counts those that are leapt over.
-- KEYS[1]  the ticks
-- ARGV     [1] session  [2] nonce  [3] worker  [4] the tick, ms  [5] the LastTick it was counted from  [6] Def
--          [7] how many ticks lie between  [8] the first of them  [9] why they are missed
--          [10] 'forbid', 'buffer', 'allow' or 'replace'  [11] '1': rather not at all than beside another run
-- Returns  {'GRANTED', tick, epoch, attempt, started, ...}, or {'DONE' | 'STALE' | 'EARLY' | 'BUSY' | 'SKIPPED' |
--          'BUFFERED', ...}; see ticks for the rest. DONE, STALE, EARLY and BUSY change nothing.
local session, nonce, worker, tick = ARGV[1], ARGV[2], ARGV[3], number(ARGV[4])
local known = run_of(nonce)
if known and known[3] == session then
  return granted('GRANTED', known)
end
if def ~= ARGV[6] then
  return refused('STALE')
end
if last ~= number(ARGV[5]) or tick <= last then
  return refused('DONE')
end
if tick > now then
  return refused('EARLY')
end
local overlap = ARGV[10]
local allow = overlap == 'allow'
local busy = #runs + #retries > 0 and not allow
if busy and ARGV[11] == '1' then
  return refused('BUSY')
end

local missed = number(ARGV[7])
if missed > 0 then
  count('Elapsed', missed)
  count('Missed', missed)
  enter(ARGV[8], text(missed), 'missed', '0', '0', '0', '', ARGV[9])
end
count('Elapsed')
last = tick
redis.call('HSET', key, 'LastTick', text(last))
local function skip(which, why)
  decided(which, 'skipped', '0', text(math.max(0, now - number(which))), '0', worker, why)
end
if allow and #runs + #retries >= RUNS_MOST then
  skip(text(tick), 'there are a thousand runs already')
  return refused('SKIPPED')
end
if not busy then
  local run = grant(text(tick), nonce, session, 1, 'tick', allow, worker)
  save()
  return granted('GRANTED', run)
end
if overlap == 'replace' then
  for _, run in ipairs(runs) do
    run[8] = '1'
  end
  drop_waiting('when the next tick came')
  pending = text(tick)
  -- Nothing runs, it was only due again: the new one need not wait.
  local run = grant_waiting(nonce, session, false, worker)
  save()
  return run and granted('GRANTED', run) or refused('BUFFERED')
end
if overlap == 'buffer' and pending == '' then
  pending = text(tick)
  save()
  return refused('BUFFERED')
end
skip(text(tick), overlap == 'buffer' and 'one is put off already' or 'the run before it had not ended')
return refused('SKIPPED')
