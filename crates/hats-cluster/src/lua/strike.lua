-- strike: a session has ended after its watchdog had named a task: its end is counted against the task, once.
-- KEYS[1]  the poison record of the task: Deaths, Until, Reason, Source, Last, Sessions, Beside, Off, Cleared
-- ARGV     [1] session  [2] server ms of its end  [3] why the task was named  [4] digest of its source as it is now
--          [5] the tasks that were named beside it, one a line, or ''
-- Returns  {'SETASIDE' | 'COUNTED' | 'KEPT', deaths, until ms, reason, source, server ms}
-- KEPT: it was counted before, it is too old, it came before somebody cleared the record, or the session has named others
-- too and they were never named apart. The third in a row sets the task aside for 10 s, each further one for twice as long,
-- 10 minutes at most. A row is over when nothing was counted for two hours in which the task could run.
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local day, healthy, shortest, longest = 86400000, 7200000, 10000, 600000

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
local function lines(value)
  local all = {}
  for line in string.gmatch(value or '', '[^\n]+') do
    all[#all + 1] = line
  end
  return all
end

local session, ended, reason, digest, others = ARGV[1], number(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local at = redis.call('HMGET', key, 'Deaths', 'Until', 'Reason', 'Source', 'Last', 'Sessions', 'Beside', 'Cleared')
local deaths, until_, last, cleared = number(at[1]), number(at[2]), number(at[5]), number(at[8])
local function answer(word)
  return { word, text(deaths), text(until_), at[3] or '', at[4] or '', text(now) }
end

local sessions = lines(at[6])
for _, known in ipairs(sessions) do
  if known == session then
    return answer('KEPT')
  end
end
-- Instants ahead of the clock are from before it was set back.
if ended + healthy < now or (ended < cleared and cleared <= now) then
  return answer('KEPT')
end

local beside = at[7] or ''
local since = math.max(last, until_)
if since + healthy < now or since > now + longest then
  deaths, until_, beside = 0, 0, ''
end
sessions[#sessions + 1] = session
while #sessions > 20 do
  table.remove(sessions, 1)
end
redis.call('HSET', key, 'Sessions', table.concat(sessions, '\n'))
redis.call('PEXPIRE', key, day)

-- Of several that were named together it is the one that is named again with others beside it.
if others ~= '' then
  local before, common = {}, {}
  for _, other in ipairs(lines(beside)) do
    before[other] = true
  end
  for _, other in ipairs(lines(others)) do
    if before[other] then
      common[#common + 1] = other
    end
  end
  redis.call('HSET', key, 'Beside', #common > 0 and table.concat(common, '\n') or others, 'Last', text(now))
  if beside == '' or #common > 0 then
    if since + healthy < now or since > now + longest then
      redis.call('HDEL', key, 'Deaths', 'Until')
    end
    return answer('KEPT')
  end
end

-- What the task has changed of its own source, while it ran, does not end the row. But what was counted against another
-- source does not keep this one away for long.
if at[4] and at[4] ~= digest then
  deaths = math.min(deaths, 2)
end
deaths = deaths + 1
if deaths >= 3 then
  until_ = now + math.min(shortest * 2 ^ math.min(deaths - 3, 10), longest)
else
  until_ = 0
end
redis.call('HDEL', key, 'Off')
redis.call('HSET', key, 'Deaths', text(deaths), 'Until', text(until_), 'Reason', reason, 'Source', digest, 'Last',
  text(now))
at[3], at[4] = reason, digest
return answer(deaths >= 3 and 'SETASIDE' or 'COUNTED')
