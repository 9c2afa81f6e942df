-- Closes an account's breaker, whatever it was, and forgets what opened it.
-- KEYS  1 the account's memory
-- ARGV  1 clock (ms; not needed here)
-- Gives {1 if it was not closed}. Where nothing is counted yet the word stands for when counting begins (seed.lua)
local DAY = 86400000
local breaker = redis.call('HGET', KEYS[1], 'breaker') or 'closed'
redis.call('HSET', KEYS[1], 'breaker', 'closed', 'failures', 0, 'opened', 0, 'probe', '', 'probe_until', 0)
redis.call('PEXPIRE', KEYS[1], 2 * DAY)
return {breaker == 'closed' and 0 or 1}
