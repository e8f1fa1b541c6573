-- adopt: the ticks of a job are counted by another definition from now on, or for the first time.
-- KEYS[1]  the ticks
-- ARGV     [1] the Def that the caller has seen, or ''  [2] the new Def  [3] the interval of an @every, or ''
-- Returns  {'ADOPTED', ...} or {'STALE', ...} if another Def stands there; see ticks for the rest
-- Nothing is counted for the time before. What waits is dropped: it belongs to the old definition. A grid begins at first
-- sight; being off for a while moves it no more than another schedule in between. A LastTick more than a day ahead was set
-- by a clock that was wrong: the job would stand still until then, so it begins anew.
if def ~= ARGV[2] then
  if def ~= ARGV[1] then
    return refused('STALE')
  end
  redis.call('PERSIST', key)
  last = last > now + 86400000 and now or math.max(last, now)
  if ARGV[3] ~= '' and (anchor == '' or every ~= ARGV[3]) then
    anchor, every = text(last), ARGV[3]
    redis.call('HSET', key, 'Anchor', anchor, 'Every', every)
  end
  drop_waiting('when the definition changed')
  def = ARGV[2]
  redis.call('HSET', key, 'Def', def, 'DefEpoch', text(epoch), 'LastTick', text(last))
  redis.call('HSETNX', key, 'Since', text(last))
  save()
end
return refused('ADOPTED')
