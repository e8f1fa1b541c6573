-- finish: a run has ended; what waits for that is granted in the same step.
-- KEYS[1]  the ticks
-- ARGV     [1] nonce  [2] 'ran', 'failed' or 'skipped'  [3] ms until it is due again, or ''  [4] lateness, ms
--          [5] duration, ms  [6] why, or ''  [7] '1' if the history shows it  [8] what it said
--          [9] session and [10] nonce of the run that may follow, or ''  [11] its worker
-- Returns  {'NEXT', tick, epoch, attempt, started, ...}, {'FINISHED', ...}, or {'NOTHELD', ...} if there is no such run;
--          see ticks for the rest
local next_ = ARGV[10] ~= '' and run_of(ARGV[10])
if next_ then
  -- The same again: its answer was lost.
  return granted('NEXT', next_)
end
local run, place = run_of(ARGV[1])
if not run then
  return refused('NOTHELD')
end
table.remove(runs, place)
ended(run, ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7] == '1' and ARGV[8])
local follows = ARGV[9] ~= '' and grant_waiting(ARGV[10], ARGV[9], false, ARGV[11])
save()
return follows and granted('NEXT', follows) or refused('FINISHED')
