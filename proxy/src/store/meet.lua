-- Says that a replica is there, and answers who else is and which keys they seal with.
--
-- KEYS: the replicas, by number "seen address", `-` for one that is not to be reached; the keys they seal with, by number; what is revoked,
-- by agent, until when in milliseconds, 0 for good. ARGV: the replica, its address or '' where it leaves,
-- after how long without a word a replica is gone, how long a key seals (both in milliseconds; 0 where
-- it seals nothing for others), how
-- many keys are kept, two keys to begin with, and those that the replica knows: number, key, ….
-- Answers { milliseconds by the server's clock, the number of the key that seals now, { replica,
-- address, … }, { number, key, … }, { revoked, until, … } }.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local revoked = redis.call('HGETALL', KEYS[3])
for i = 1, #revoked, 2 do
  local till = tonumber(revoked[i + 1])
  if till > 0 and till <= now then
    redis.call('HDEL', KEYS[3], revoked[i])
  end
end

local gone, rotate, kept = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', now, ARGV[2]))
end
local here = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local seen, address = string.match(all[i + 1], '^(%d+) (.+)$')
  if seen and now - tonumber(seen) < gone then
    here[#here + 1], here[#here + 2] = all[i], address
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end

if rotate == 0 then
  return { now, 0, here, {}, redis.call('HGETALL', KEYS[3]) }
end

-- The next key is known to all before anybody seals with it.
local current = math.floor(now / rotate)
for i = 8, #ARGV, 2 do
  local number = tonumber(ARGV[i])
  if number >= current - kept and number <= current + 1 then
    redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
redis.call('HSETNX', KEYS[2], string.format('%.0f', current), ARGV[6])
redis.call('HSETNX', KEYS[2], string.format('%.0f', current + 1), ARGV[7])
local keys = redis.call('HGETALL', KEYS[2])
for i = 1, #keys, 2 do
  if tonumber(keys[i]) < current - kept then
    redis.call('HDEL', KEYS[2], keys[i])
  end
end
keys = redis.call('HGETALL', KEYS[2])

return { now, current, here, keys, redis.call('HGETALL', KEYS[3]) }
