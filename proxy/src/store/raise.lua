-- Raises a boss alert, after the falls that are due.
--
-- KEYS[1]: the alert. ARGV: 1 where the boss notices the call and 0 where not, the cooldown of one
-- level in microseconds, the highest level. Answers { before, after }.
--
-- A value is "level since cooldown": the running period of cooldown began at `since`, on the server's
-- clock, in microseconds.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local noticed, cooldown, top = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local level, since = 0, now
local value = redis.call('GET', KEYS[1])
if value then
  local was, began, old = string.match(value, '^(%d+) (%d+) (%d+)$')
  level, since, old = tonumber(was), tonumber(began), tonumber(old)
  -- Falls that were due are taken under the cooldown of their time; a shorter one makes at most one
  -- further fall due at once.
  local periods = old > 0 and math.floor(math.max(0, now - since) / old) or level
  if periods >= level then
    level = 0
  else
    level, since = level - periods, since + periods * old
  end
  if old ~= cooldown then
    since = math.max(since, now - cooldown)
    if cooldown > 0 and level > 0 and now - since >= cooldown then
      level, since = level - 1, since + cooldown
    end
  end
end
if cooldown == 0 then
  level = 0
end

local before = level
if noticed == 1 and level < top then
  level, since = level + 1, now
end
if level == 0 or cooldown == 0 then
  redis.call('DEL', KEYS[1])
else
  local lasts = level * cooldown - (now - since)
  local kept = string.format('%.0f %.0f %.0f', level, since, cooldown)
  redis.call('SET', KEYS[1], kept, 'PX', string.format('%.0f', math.ceil(lasts / 1000) + 1000))
end
return { before, level }
