-- manual: a run that an operator asks for. It moves no tick and is counted nowhere but in the history.
-- KEYS[1]  the ticks
-- ARGV     [1] session  [2] nonce  [3] worker  [4] what asks for it, another text each time
--          [5] the Epoch that the caller has seen  [6] Overlap
-- Returns  {'GRANTED', instant, epoch, attempt, started, ...}, {'DONE', ...} if that was granted already,
--          {'STALE', ...} if another run was granted since the caller looked, or {'BUSY', ...} while another run has not
--          ended; see ticks for the rest
local known = run_of(ARGV[2])
if known and known[3] == ARGV[1] then
  return granted('GRANTED', known)
end
if manual == ARGV[4] then
  return refused('DONE')
end
if epoch ~= number(ARGV[5]) then
  return refused('STALE')
end
local allow = ARGV[6] == 'allow'
if #runs > 0 and not allow or #runs >= RUNS_MOST then
  return refused('BUSY')
end
manual = ARGV[4]
redis.call('HSET', key, 'Manual', manual)
local run = grant(text(now), ARGV[2], ARGV[1], 1, 'manual', allow, ARGV[3])
save()
return granted('GRANTED', run)
