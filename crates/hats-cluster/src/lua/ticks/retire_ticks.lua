-- retire_ticks: the definition is gone. What waits is dropped; the rest follows in 24 hours, unless something runs.
-- KEYS[1]  the ticks
-- ARGV     none
-- Returns  {'RETIRED', ...} or {'KEPT', ...} while something runs; see ticks for the rest
-- No Def is left, so whoever finds a definition again has to adopt it: that ends the 24 hours.
drop_waiting('when the definition was removed')
if def ~= '' then
  def, def_epoch = '', epoch
  redis.call('HDEL', key, 'Def')
  redis.call('HSET', key, 'DefEpoch', text(epoch))
end
save()
if #runs > 0 then
  return refused('KEPT')
end
if redis.call('PTTL', key) == -1 then
  redis.call('PEXPIRE', key, 86400000)
end
return refused('RETIRED')
