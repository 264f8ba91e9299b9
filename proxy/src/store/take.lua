-- Takes from all of some budgets or from none, or charges them for what was used already.
--
-- KEYS: one for each budget, all of one policy and so of one slot.
-- ARGV[1]: "take" or "charge"; ARGV[2]: how long the caller would wait, in microseconds.
-- Then seven for each budget, the last of them how much more has to be there, and stays:
--   "e", n, burst, share, scale, 0, keep  what comes back evenly: one more for each `share`, which is
--                                         counted in units of which a microsecond has `scale`
--   "w", n, count, begin, end, longest, keep  what comes back with a window, in microseconds
--
-- Answers { granted, wait, tightest, remaining, retry, reset, now }; spans in microseconds, retry -1:
-- never. granted -1: a window is not the one of the server's time, which is `now`; nothing was done.
--
-- The time is the server's, so that no replica's clock grants anything. A value is
--   "e at debt share scale"   owed so much at that moment
--   "w end spent ahead"       spent in the window that ends then, and of the next one already

local SIZE = 7
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local charging = ARGV[1] == 'charge'
local patience = tonumber(ARGV[2])

local function text(number)
  return string.format('%.0f', number)
end

local function words(value)
  local list = {}
  for word in string.gmatch(value, '%S+') do
    list[#list + 1] = word
  end
  return list
end

local function owed(budget)
  if budget.kind == 'w' then
    return budget.spent
  end
  return math.ceil(budget.debt / budget.share)
end

-- What a value written under any limit means under this one: what was spent stays spent.
local function read(key, at)
  local budget = { key = key, kind = ARGV[at], n = tonumber(ARGV[at + 1]), size = tonumber(ARGV[at + 2]) }
  budget.keep = tonumber(ARGV[at + 6])
  if budget.kind == 'e' then
    budget.share, budget.scale, budget.debt = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), 0
  else
    budget.begin, budget.ends = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    budget.longest, budget.spent, budget.ahead = tonumber(ARGV[at + 5]), 0, 0
  end
  local value = redis.call('GET', key)
  if not value then
    return budget
  end
  local was = words(value)
  if was[1] == 'e' then
    local share, scale = tonumber(was[4]), tonumber(was[5])
    local passed = math.max(0, now - tonumber(was[2])) * scale
    local debt = math.max(0, tonumber(was[3]) - passed)
    if budget.kind == 'w' then
      budget.spent = math.ceil(debt / share)
    elseif share == budget.share and scale == budget.scale then
      budget.debt = debt
    else
      budget.debt = math.ceil(debt / share) * budget.share
    end
    return budget
  end
  local ends, spent, ahead = tonumber(was[2]), tonumber(was[3]), tonumber(was[4])
  if budget.kind == 'e' then
    budget.debt = (now < ends and spent or 0) * budget.share
  elseif ends == budget.ends then
    budget.spent, budget.ahead = spent, ahead
  elseif now < ends then
    budget.spent = spent
  elseif ends == budget.begin then
    -- What was promised of the window that followed counts in that one alone.
    budget.spent = ahead
  end
  return budget
end

-- How long until `n` are there, and what has to stay; nil: never.
local function wait_of(budget)
  local wanted = budget.n + budget.keep
  if budget.n == 0 then
    return 0
  elseif wanted > budget.size then
    return nil
  elseif budget.kind == 'e' then
    local over = budget.debt + wanted * budget.share - budget.size * budget.share
    return math.max(0, math.ceil(over / budget.scale))
  elseif budget.spent + wanted <= budget.size then
    return 0
  elseif budget.ahead + wanted <= budget.size then
    return budget.ends - now
  end
  return budget.ends - now + budget.longest
end

local function reset_of(budget)
  if budget.kind == 'e' then
    return math.ceil(budget.debt / budget.scale)
  elseif budget.spent == 0 and budget.ahead == 0 then
    return 0
  end
  return budget.ends - now
end

local function spend(budget, wait)
  if budget.n == 0 then
    return
  elseif budget.kind == 'e' then
    budget.debt = math.max(budget.debt, wait * budget.scale) + budget.n * budget.share
  elseif budget.ends <= now + wait then
    budget.ahead = budget.ahead + budget.n
  else
    budget.spent = budget.spent + budget.n
  end
end

-- Kept for as long as it differs from a full one.
local function keep(budget)
  local value, lasts
  if budget.kind == 'e' then
    value = table.concat({ 'e', text(now), text(budget.debt), text(budget.share), text(budget.scale) }, ' ')
    lasts = budget.debt / budget.scale
  else
    value = table.concat({ 'w', text(budget.ends), text(budget.spent), text(budget.ahead) }, ' ')
    lasts = budget.ends - now + (budget.ahead > 0 and budget.longest or 0)
  end
  redis.call('SET', budget.key, value, 'PX', text(math.ceil(lasts / 1000) + 1000))
end

local budgets = {}
for index, key in ipairs(KEYS) do
  local budget = read(key, 3 + (index - 1) * SIZE)
  if budget.kind == 'w' and (now < budget.begin or budget.ends <= now) then
    return { -1, 0, 0, 0, -1, 0, now }
  end
  budgets[index] = budget
end

-- The one that takes longest says when another try can succeed; one that never has enough says it
-- for all.
local refused, retry = nil, nil
local function refuse(index, wait)
  if not refused or (retry and (not wait or wait > retry)) then
    refused, retry = index, wait
  end
end

local wait = 0
if not charging then
  for index, budget in ipairs(budgets) do
    local its = wait_of(budget)
    if its and its <= patience then
      wait = math.max(wait, its)
    else
      refuse(index, its)
    end
  end
  for index, budget in ipairs(budgets) do
    local is_next = budget.kind == 'w' and budget.ends <= now + wait
    if is_next and budget.ahead + budget.n > budget.size then
      refuse(index, reset_of(budget))
    end
  end
end
if not refused then
  for _, budget in ipairs(budgets) do
    spend(budget, wait)
    if budget.n > 0 then
      keep(budget)
    end
  end
end

local tightest, remaining, reset, least = 0, 0, 0, math.huge
for index, budget in ipairs(budgets) do
  local left = math.max(0, budget.size - owed(budget) - (refused and budget.keep or 0))
  local share = left / budget.size
  if (refused and refused == index) or (not refused and share < least) then
    tightest, remaining, reset, least = index - 1, left, reset_of(budget), share
  end
end
if refused then
  return { 0, 0, tightest, remaining, retry or -1, reset, now }
end
return { 1, wait, tightest, remaining, 0, reset, now }
