-- settle: what the dead have left ends as failed, or is due again; what waits is granted if nothing runs.
-- KEYS[1]  the ticks
-- ARGV     [1] session, or '' to take nothing  [2] nonce  [3] worker  [4] Def  [5] the Epoch that the caller has seen
--          [6] Overlap  [7] Retries of the definition  [8] ms until a run is due again  [9] why the dead's have failed
--          [10] ... sessions that are known to be dead
-- Returns  {'NEXT', tick, epoch, attempt, started, ...}, or {'SETTLED', ...}; see ticks for the rest
-- What waits is granted only to a caller that has seen the last grant: a question that comes late, after the run that it
-- was granted has ended, gets nothing.
local known = run_of(ARGV[2])
if known and known[3] == ARGV[1] then
  return granted('NEXT', known)
end
local dead = {}
for i = 10, #ARGV do
  dead[ARGV[i]] = true
end
local left = {}
for _, run in ipairs(runs) do
  if dead[run[3]] then
    local again = number(run[5]) <= number(ARGV[7]) and ARGV[8] or ''
    local late = run[7] == 'manual' and '0' or text(math.max(0, number(run[6]) - number(run[1])))
    ended(run, 'failed', again, late, '0', ARGV[9], '')
  else
    left[#left + 1] = run
  end
end
runs = left
local may = ARGV[1] ~= '' and def == ARGV[4] and epoch == number(ARGV[5])
local follows = may and grant_waiting(ARGV[2], ARGV[1], ARGV[6] == 'allow', ARGV[3])
save()
return follows and granted('NEXT', follows) or refused('SETTLED')
