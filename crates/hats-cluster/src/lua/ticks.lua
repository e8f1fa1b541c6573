-- What the scripts about the ticks of a job have in common; it stands before each of them.
-- The hash: Def, DefEpoch, LastTick, Since, Anchor, Every, Epoch, Runs, Retries, Pending, Manual; the counters Elapsed,
-- Ran, Failed, Skipped, Missed; the ledger L:0 to L:39 (25 lines each) with LedgerHead and LedgerTail; the history H:0 to
-- H:99 with HistoryHead, HistoryTail and HistoryBytes.
-- A line of Runs: tick, nonce, session, epoch, attempt, started, 'tick' or 'manual', '1' if it is to end, '1' if it may be
-- beside others, worker. A line of Retries, runs that are due again: tick, attempt, when, '1' if beside others. Fields of
-- a line are parted by tabs.
-- Always: Elapsed = Ran + Failed + Skipped + Missed + runs of ticks + retries + pending. LastTick and Epoch only grow, but
-- for what adopt says. At most one run, but for those that may be beside others.
local key = KEYS[1]
redis.call('HDEL', key, '-') -- see open
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local LEDGER_LINES, LEDGER_CHUNKS, LEDGER_AGE = 25, 40, 2592000000
local HISTORY_MOST, HISTORY_BYTES = 100, 262144
local RUNS_MOST, AGAIN_MOST = 1000, 3600000

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
-- The lines of a text that have so many fields; others are none of ours.
local function lines(value, width)
  local all = {}
  for line in string.gmatch(value or '', '[^\n]+') do
    local fields = {}
    for field in string.gmatch(line .. '\t', '([^\t]*)\t') do
      fields[#fields + 1] = field
    end
    if #fields == width then
      all[#all + 1] = fields
    end
  end
  return all
end
local function joined(all)
  local text_ = {}
  for i, fields in ipairs(all) do
    text_[i] = table.concat(fields, '\t')
  end
  return table.concat(text_, '\n')
end

local at = redis.call('HMGET', key, 'Def', 'LastTick', 'Anchor', 'Every', 'Epoch', 'Runs', 'Retries', 'Pending', 'Manual',
  'DefEpoch')
local def, last, anchor, every, epoch = at[1] or '', number(at[2]), at[3] or '', at[4] or '', number(at[5])
local runs, retries, pending, manual = lines(at[6], 10), lines(at[7], 4), at[8] or '', at[9] or ''
local def_epoch = number(at[10])

-- Writes down what has changed.
local function save()
  local function put(field, value, before)
    if value == (before or '') then
      return
    end
    if value == '' then
      redis.call('HDEL', key, field)
    else
      redis.call('HSET', key, field, value)
    end
  end
  put('Runs', joined(runs), at[6])
  put('Retries', joined(retries), at[7])
  put('Pending', pending, at[8])
end
-- The answer, and what stands there now.
local function answer(...)
  local reply = { ... }
  for _, value in ipairs({ text(now), def, text(last), anchor, joined(runs), joined(retries), pending, manual,
    text(epoch) }) do
    reply[#reply + 1] = value
  end
  return reply
end
local function granted(word, run)
  return answer(word, run[1], run[4], run[5], run[6])
end
local function refused(word)
  return answer(word, '0', '0', '0', '0')
end

local function count(field, by)
  redis.call('HINCRBY', key, field, text(by or 1))
end
-- One line of the ledger: tick, how many ticks from there, outcome, attempt, lateness and duration in ms, when it was
-- decided, worker, why. They are kept by the chunk: so many small fields would take twice the memory.
local function enter(tick, ticks, outcome, attempt, late, took, worker, why)
  local ends = redis.call('HMGET', key, 'LedgerHead', 'LedgerTail')
  local head, tail = number(ends[1]), number(ends[2])
  local line = table.concat({ tick, ticks, outcome, attempt, late, took, text(now), worker, why }, '\t')
  local chunk = math.floor(head / LEDGER_LINES)
  local field = 'L:' .. text(chunk % LEDGER_CHUNKS)
  if head % LEDGER_LINES > 0 then
    line = (redis.call('HGET', key, field) or '') .. '\n' .. line
  end
  tail = math.min(math.max(tail, chunk + 1 - LEDGER_CHUNKS), chunk)
  redis.call('HSET', key, field, line)
  -- Two for each that comes: an old ledger shrinks, and no call takes long.
  for _ = 1, 2 do
    local oldest = 'L:' .. text(tail % LEDGER_CHUNKS)
    local newest = tail < chunk and lines(string.match(redis.call('HGET', key, oldest) or '', '[^\n]*$'), 9)[1]
    if tail < chunk and (not newest or number(newest[7]) < now - LEDGER_AGE) then
      redis.call('HDEL', key, oldest)
      tail = tail + 1
    end
  end
  redis.call('HSET', key, 'LedgerHead', text(head + 1), 'LedgerTail', text(tail))
end
-- A tick is decided.
local function decided(tick, outcome, attempt, late, took, worker, why)
  count(({ ran = 'Ran', failed = 'Failed', skipped = 'Skipped' })[outcome])
  enter(tick, '1', outcome, attempt, late, took, worker, why)
end
-- A run in the history: what is known of it in a line, and behind that what it said.
local function remember(run, outcome, again, late, took, why, said)
  local ends = redis.call('HMGET', key, 'HistoryHead', 'HistoryTail', 'HistoryBytes')
  local head, tail, bytes = number(ends[1]) + 1, number(ends[2]), number(ends[3])
  local line = { run[1], run[7], run[5], run[4], run[6], text(now), outcome, again, late, took, run[10], why }
  local entry = table.concat(line, '\t') .. '\n' .. said
  bytes = bytes + #entry
  tail = math.min(math.max(tail, head - HISTORY_MOST - 1), head - 1)
  while tail < head - 1 and (head - tail > HISTORY_MOST or bytes > HISTORY_BYTES) do
    local oldest = 'H:' .. text(tail % HISTORY_MOST)
    bytes = math.max(0, bytes - redis.call('HSTRLEN', key, oldest))
    redis.call('HDEL', key, oldest)
    tail = tail + 1
  end
  redis.call('HSET', key, 'H:' .. text((head - 1) % HISTORY_MOST), entry, 'HistoryHead', text(head), 'HistoryTail',
    text(tail), 'HistoryBytes', text(bytes))
end

local function run_of(nonce)
  for i, run in ipairs(runs) do
    if run[2] == nonce then
      return run, i
    end
  end
end
-- A run begins: its line.
local function grant(tick, nonce, session, attempt, kind, beside, worker)
  epoch = math.max(epoch + 1, now)
  local run = { tick, nonce, session, text(epoch), text(attempt), text(now), kind, '0', beside and '1' or '0', worker }
  runs[#runs + 1] = run
  redis.call('HSET', key, 'Epoch', text(epoch))
  return run
end
-- What waits is granted if nothing runs any more: a run that is due again before a tick that was put off. Under `allow`
-- one that is due again does not wait for others.
local function grant_waiting(nonce, session, allow, worker)
  for i, retry in ipairs(retries) do
    local beside = allow and retry[4] == '1'
    -- An instant further ahead than it could have been set counts as passed.
    local due = number(retry[3]) <= now or number(retry[3]) > now + AGAIN_MOST
    if due and (beside or #runs == 0) then
      table.remove(retries, i)
      return grant(retry[1], nonce, session, number(retry[2]), 'tick', beside, worker)
    end
  end
  if #runs == 0 and #retries == 0 and pending ~= '' then
    local tick = pending
    pending = ''
    return grant(tick, nonce, session, 1, 'tick', false, worker)
  end
end
-- A run has ended: it is due again, or that was it. One that was to end, or that began under an earlier definition, is
-- not tried again.
local function ended(run, outcome, again, late, took, why, said)
  if outcome ~= 'failed' or run[7] == 'manual' or run[8] == '1' or number(run[4]) <= def_epoch then
    again = ''
  end
  if said then
    remember(run, outcome, again, late, took, why, said)
  end
  if again ~= '' then
    local at_ = text(now + math.min(number(again), AGAIN_MOST))
    retries[#retries + 1] = { run[1], text(number(run[5]) + 1), at_, run[9] }
  elseif run[7] ~= 'manual' then
    decided(run[1], outcome, run[5], late, took, run[10], why)
  end
end
-- What waits will not run any more.
local function drop_waiting(why)
  for _, retry in ipairs(retries) do
    decided(retry[1], 'failed', text(math.max(0, number(retry[2]) - 1)), '0', '0', '', 'it was due again ' .. why)
  end
  retries = {}
  if pending ~= '' then
    decided(pending, 'skipped', '0', '0', '0', '', 'it was put off ' .. why)
  end
  pending = ''
end

