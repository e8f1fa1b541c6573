-- open: creates a session, alive. Tried once per id; a second try is told so.
-- KEYS[1]  the session
-- ARGV     [1] the worker's name  [2] version  [3] lease, ms  [4] weight  [5] most threads, or ''  [6] labels
--          [7] '1' if it takes new threads, else '0'
-- Returns  {'OPENED', server ms, expiry ms} or {'EXISTS'}
local key = KEYS[1]
-- Deleting a field that is not there changes nothing, but makes this script a writing one, so that the writes below
-- are not refused when Redis is out of memory.
redis.call('HDEL', key, '-')
if redis.call('EXISTS', key) == 1 then
  return { 'EXISTS' }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_text = string.format('%.0f', now)
local expiry = string.format('%.0f', now + tonumber(ARGV[3]))
redis.call('HSET', key, 'Name', ARGV[1], 'Version', ARGV[2], 'State', 'alive', 'Beat', '1', 'Expiry', expiry,
  'LeaseMs', ARGV[3], 'Opened', now_text, 'Load', '0', 'Ready', ARGV[7], 'Weight', ARGV[4], 'ThreadsMax', ARGV[5],
  'Labels', ARGV[6])
return { 'OPENED', now_text, expiry }
