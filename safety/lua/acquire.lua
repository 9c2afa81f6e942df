-- Asks for one call to a provider: all windows, slots, cooldown and breaker of a Nova and of its account are judged together.
-- KEYS  1 clean start | of the Nova: 2 grants, 3 days, 4 slots, 5 memory | of the account: 6 grants, 7 days, 8 slots, 9 memory
-- ARGV  1 clock (ms; 0: the server's) 2 permit 3 life of a slot (ms) 4 installation's epoch
--       5 cooldown 6 longest cooldown (ms) 7 refusals a minute that are still patience
--       then twice, for the Nova and the account: a minute, an hour, a day, at once, burst, burst window (ms)
-- Gives {granted|refused|violation|unseeded|closed, which limit, ms to wait or until, measured, limit, …}
local MINUTE, HOUR, DAY, BUCKET = 60000, 3600000, 86400000, 900000

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local start = redis.call('HMGET', KEYS[1], 'epoch', 'closed_until')
if start[1] ~= ARGV[4] then return {'unseeded', 'start', now} end
if start[2] and tonumber(start[2]) > now then
  return {'closed', 'counters', tonumber(start[2]) - now, 0, 0, now}
end
local owners = {{5, 2, 3, 4, 8, 'nova'}}
if KEYS[6] then owners[2] = {9, 6, 7, 8, 14, 'account'} end
for _, owner in ipairs(owners) do
  if redis.call('HGET', KEYS[owner[1]], 'epoch') ~= ARGV[4] then return {'unseeded', owner[6], now} end
end

local half_open = false
if KEYS[6] then
  local breaker = redis.call('HMGET', KEYS[9], 'breaker', 'until', 'probe_until')
  if breaker[1] == 'open' and tonumber(breaker[2]) > now then
    return {'refused', 'breaker', tonumber(breaker[2]) - now, 0, 0, now}
  elseif breaker[1] == 'half_open' and tonumber(breaker[3] or 0) > now then
    return {'refused', 'probe', math.min(tonumber(breaker[3]) - now, 1000), 1, 1, now}
  end
  half_open = breaker[1] == 'open' or breaker[1] == 'half_open'
end

local cooling = tonumber(redis.call('HGET', KEYS[5], 'cool_until') or 0)
if cooling > now then return {'refused', 'cooldown', cooling - now, 0, 0, now} end

-- the first limit that is reached, with how long until it has room again
local function reached(owner)
  local grants, days, slots, first = KEYS[owner[2]], KEYS[owner[3]], KEYS[owner[4]], owner[5]
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
  local most = tonumber(ARGV[first + 3])
  local count = redis.call('ZCARD', slots)
  if count >= most then
    local next_free = redis.call('ZRANGE', slots, 0, 0, 'WITHSCORES')
    return 'at_once', math.min(tonumber(next_free[2]) - now, 1000), count, most
  end
  redis.call('ZREMRANGEBYSCORE', grants, '-inf', now - HOUR)
  local windows = {{'burst', tonumber(ARGV[first + 5]), tonumber(ARGV[first + 4])},
                   {'minute', MINUTE, tonumber(ARGV[first])}, {'hour', HOUR, tonumber(ARGV[first + 1])}}
  for _, window in ipairs(windows) do
    local within = redis.call('ZCOUNT', grants, '(' .. (now - window[2]), '+inf')
    if within >= window[3] then
      local oldest = redis.call('ZREVRANGE', grants, window[3] - 1, window[3] - 1, 'WITHSCORES')
      return window[1], tonumber(oldest[2]) + window[2] - now, within, window[3]
    end
  end
  -- a day is counted by quarters of an hour; one counts until all of it is over, so never too little
  local today, earliest = 0, nil
  local entries = redis.call('HGETALL', days)
  for i = 1, #entries, 2 do
    local bucket = tonumber(entries[i])
    if bucket + BUCKET <= now - DAY then
      redis.call('HDEL', days, entries[i])
    else
      today = today + tonumber(entries[i + 1])
      if not earliest or bucket < earliest then earliest = bucket end
    end
  end
  if today >= tonumber(ARGV[first + 2]) then
    return 'day', earliest + BUCKET + DAY - now, today, tonumber(ARGV[first + 2])
  end
end

for _, owner in ipairs(owners) do
  local limit, wait, measured, most = reached(owner)
  if limit then
    -- asking on and on while there is no room is hammering, whichever limit it is
    local memory = redis.call('HMGET', KEYS[5], 'refused_since', 'refused', 'cool_until', 'row')
    local since, refused = tonumber(memory[1] or 0), tonumber(memory[2] or 0) + 1
    if now - since >= MINUTE then since, refused = now, 1 end
    redis.call('HSET', KEYS[5], 'refused_since', since, 'refused', refused)
    if refused > tonumber(ARGV[7]) then
      local row = tonumber(memory[4] or 0)
      if now - tonumber(memory[3] or 0) >= tonumber(ARGV[6]) then row = 0 end
      local length = math.floor(math.min(tonumber(ARGV[5]) * 2 ^ math.min(row, 20), tonumber(ARGV[6])))
      redis.call('HSET', KEYS[5], 'cool_until', now + length, 'row', row + 1, 'refused_since', 0, 'refused', 0)
      return {'violation', owner[6] .. ' ' .. limit, length, refused, tonumber(ARGV[7]), now}
    end
    return {'refused', owner[6] .. ' ' .. limit, wait, measured, most, now}
  end
end

local bucket = string.format('%.0f', now - now % BUCKET)
for _, owner in ipairs(owners) do
  redis.call('ZADD', KEYS[owner[2]], now, ARGV[2])
  redis.call('PEXPIRE', KEYS[owner[2]], HOUR)
  redis.call('HINCRBY', KEYS[owner[3]], bucket, 1)
  redis.call('PEXPIRE', KEYS[owner[3]], DAY + BUCKET)
  redis.call('ZADD', KEYS[owner[4]], now + tonumber(ARGV[3]), ARGV[2])
  redis.call('PEXPIRE', KEYS[owner[4]], tonumber(ARGV[3]))
  redis.call('PEXPIRE', KEYS[owner[1]], 2 * DAY)
end
if half_open then
  redis.call('HSET', KEYS[9], 'breaker', 'half_open', 'probe', ARGV[2], 'probe_until', now + tonumber(ARGV[3]))
end
local minute = redis.call('ZCOUNT', KEYS[2], '(' .. (now - MINUTE), '+inf')
local hour = redis.call('ZCARD', KEYS[2])
return {'granted', half_open and 'probe' or '', now + tonumber(ARGV[3]), tonumber(ARGV[8]) - minute, tonumber(ARGV[9]) - hour, now}
