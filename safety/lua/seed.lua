-- Begins to count for one owner (or for all: the clean start), from what the database remembers.
-- KEYS  1 memory, or the clean start | 2 grants, 3 days
-- ARGV  1 epoch 2 closed until (ms; 0: not) 3 breaker open until (ms; 0: closed) 4 number of grants, then when (ms) each of
--       them was, then bucket and count by turns
local known = redis.call('HGET', KEYS[1], 'epoch')
if known == ARGV[1] then return 0 end
if known then redis.call('DEL', KEYS[1]) end  -- of another epoch: not to be trusted
if KEYS[2] then redis.call('DEL', KEYS[2], KEYS[3]) end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'closed_until', ARGV[2])
if ARGV[3] ~= '0' and redis.call('HSETNX', KEYS[1], 'breaker', 'open') == 1 then
  redis.call('HSET', KEYS[1], 'until', ARGV[3])
end
local grants = tonumber(ARGV[4])
for i = 5, 4 + grants do
  redis.call('ZADD', KEYS[2], tonumber(ARGV[i]), 'seeded-' .. i)
end
for i = 5 + grants, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
return 1
