-- Gives a permit back and tells the account's breaker how the call went.
-- KEYS  1 the Nova's slots | 2 the account's slots, 3 the account's memory
-- ARGV  1 clock (ms; 0: the server's) 2 permit 3 success|failure|rate_limited|nothing 4 failures that open the breaker
--       5 rest 6 longest rest (ms)
-- Gives {1 if the permit was still held, the breaker's change if there was one, until (ms)}
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local held = 0
if KEYS[1] then held = redis.call('ZREM', KEYS[1], ARGV[2]) end
if not KEYS[3] then return {held, '', 0} end
redis.call('ZREM', KEYS[2], ARGV[2])

local memory = redis.call('HMGET', KEYS[3], 'breaker', 'probe', 'failures', 'opened', 'until')
local breaker, failures = memory[1] or 'closed', tonumber(memory[3] or 0)
local probe = breaker == 'half_open' and memory[2] == ARGV[2]

local function open(opened)
  local length = math.floor(math.min(tonumber(ARGV[5]) * 2 ^ math.min(opened, 20), tonumber(ARGV[6])))
  redis.call('HSET', KEYS[3], 'breaker', 'open', 'until', now + length, 'opened', opened + 1, 'failures', 0, 'probe', '',
             'probe_until', 0)
  return {held, 'open', now + length}
end

if ARGV[3] == 'success' then
  if probe then
    redis.call('HSET', KEYS[3], 'breaker', 'closed', 'failures', 0, 'opened', 0, 'probe', '', 'probe_until', 0)
    return {held, 'closed', 0}
  end
  if breaker == 'closed' then redis.call('HSET', KEYS[3], 'failures', 0) end
elseif ARGV[3] == 'nothing' then
  if probe then redis.call('HSET', KEYS[3], 'probe', '', 'probe_until', 0) end
elseif probe then
  return open(tonumber(memory[4] or 0))
elseif breaker == 'closed' then
  failures = failures + 1
  if ARGV[3] == 'rate_limited' or failures >= tonumber(ARGV[4]) then return open(0) end
  redis.call('HSET', KEYS[3], 'failures', failures)
end
return {held, '', 0}
