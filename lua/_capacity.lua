-- How fast a provider answers, and how many calls at once it takes: learned from calls that went well.
--
-- `circuit/capacity.py` is its mirror in Python, function for function, and says what each figure means.

local SAMPLES_KEPT, LONGEST_KEPT, GROWTH_COUNTED = 64, 256, 1000000
local FIRST_LIMIT = 2 -- of a provider of which nothing is known yet
local LOW, NEAR = 0.5, 0.75
local ANSWERS_WITHIN_MS = 5000 -- a provider that is full answers somebody within this, or within two calls' time
local COUNTED_OVER_MS = 10000 -- answers a second are an average over about so long
local LESS = 0.7 -- after a rate limit so many of the calls at once that met it
local AT_FIRST, SLOWER, FASTER, FASTEST, PAUSES_PACED = 2, 0.85, 0.005, 5, 5 -- of the pace after a rate limit
local TOLERATED, UNSURE = 1.25, 1.5

local abs, min, max, sqrt, exp = math.abs, math.min, math.max, math.sqrt, math.exp -- looked up once, as `learn` is for each outcome

-- So many whole calls at once are within a limit.
local function within(limit) return max(1, math.floor(limit + 0.1)) end

-- The limit after a quick answer: at first by leaps; after a cut ever faster, the longer that is ago.
local function grow(health, limit, load)
  local growth = health.limit_growth
  if growth == 0 then return max(limit, load + max(1, min(0.25 * load, sqrt(load)))) end
  health.limit_growth = min(growth + 1, GROWTH_COUNTED)
  return limit + min(1, (1 + growth / limit) / limit)
end

-- Answers a second, as they are at this moment: between results the average falls.
local function answer_rate(health, now)
  return health.answers_per_s * exp(-max(0, now - health.last_result_ms) / COUNTED_OVER_MS)
end

-- So many calls are being answered at once, whatever the others do.
local function in_service(health, now)
  return max(answer_rate(health, now) * max(health.call_ms, health.floor_latency_ms) / 1000, health.answering)
end

-- The limit a part of the way down to the calls that were in service; it never grows by that. Below the calls that are
-- answered at once it is not, whatever the others do.
local function cut(health, limit, served, now)
  return max(limit + min(0, max(1, served) - limit) * 0.2, in_service(health, now))
end

-- An answer took so long, of a call that began at this load; 0 where that is unknown.
local function learn(health, latency_ms, load, now)
  local samples, limit, near_load = health.samples + 1, health.concurrency_limit, health.near_load
  local usual, deviation = health.usual_latency_ms, health.latency_deviation_ms
  local floor, near = health.floor_latency_ms, health.near_latency_ms
  if samples == 1 then usual, floor, near = latency_ms, latency_ms, latency_ms end
  if limit == 0 and load > 0 then limit = FIRST_LIMIT
  elseif load == 0 then limit = limit > 1.2 and 0.9 * limit or 0 end -- nobody would keep within it
  local load_at_answer = load -- at least so many were in service, when this one was answered
  if load > 0 then limit, load_at_answer = max(limit, health.answering), max(load, health.answering) end
  local is_low = samples <= 8 or load <= max(1, LOW * min(limit, near_load > 0 and near_load or limit))
  local is_near = load_at_answer > max(1, NEAR * limit)
  if is_low or not is_near then
    local bounded = min(latency_ms, 4 * usual)
    usual = usual + (bounded - usual) / samples
    if samples > 1 then deviation = deviation + (abs(bounded - usual) - deviation) / samples end
  end
  if is_low then
    floor = floor + (min(latency_ms, 8 * floor) - floor) / min(samples, 8)
    near = near + (floor - near) / 12
  else
    near = near + (min(latency_ms, 8 * floor) - near) / 12
    floor = floor + min(0, near - floor) / 16
  end
  if is_near then
    near_load = near_load > 0 and near_load + (load - near_load) / 12 or load
    if near > (TOLERATED + UNSURE / sqrt(samples)) * floor then
      local call = max(health.call_ms, floor)
      limit, health.limit_growth = cut(health, limit, near_load * call / (call + near - floor), now), 1
    elseif latency_ms <= 2 * floor and (health.limit_growth == 0 or load_at_answer >= within(limit)) then
      limit = grow(health, limit, load_at_answer)
    end
  end
  local longest = health.longest_latency_ms
  health.longest_latency_ms = max(latency_ms, longest + (usual - longest) / LONGEST_KEPT)
  health.samples = min(samples, SAMPLES_KEPT - 1)
  health.usual_latency_ms, health.latency_deviation_ms = usual, deviation
  health.floor_latency_ms, health.near_latency_ms = floor, near
  health.near_load, health.concurrency_limit = near_load, limit
end

-- Did a call time out that began above the limit of a closed circuit? Then our own crowd made it late. Of a provider that
-- is dead the calls below the limit time out, too, and these count; and so do all, where the last result that counted was
-- a failure, or is too long ago: a provider that is merely full answers somebody.
local function is_overload(health, why, load, now)
  local limit = health.concurrency_limit
  if why ~= 'timeout' or limit == 0 or limit >= load or health.circuit_state ~= 'closed' then return false end
  local answers = max(ANSWERS_WITHIN_MS, 2 * health.call_ms)
  return health.consecutive_failures == 0 and abs(now - health.last_result_ms) < answers
end

-- Such a call waited, nobody knows for how long.
local function overload(health, now)
  local near, limit = health.near_latency_ms, health.concurrency_limit
  health.near_latency_ms = near + (8 * health.floor_latency_ms - near) / 12
  health.concurrency_limit, health.limit_growth = cut(health, limit, 0.5 * limit, now), 1
end

-- The pace after a rate limit: of a first one about what met it, by Little's law; one call in each pause at least. It is
-- unchanged while a pause lasts.
local function slow_down(health, load, cooldown_ms, now)
  local rate, left = health.calls_per_s, health.cooldown_until_ms - now
  local is_cooling = left > 0 and left <= health.cooldown_ms + 1000 -- as `cooling_for_ms`
  if load <= 0 or (is_cooling and left > (rate > 0 and 1000 / rate or 0)) then return end
  if rate > 0 then rate = SLOWER * rate
  else rate = AT_FIRST * max(answer_rate(health, now), health.call_ms > 0 and load * 1000 / health.call_ms or 0) end
  rate = max(rate, 1000 / max(1, cooldown_ms))
  if rate >= FASTEST then health.calls_per_s = 0; return end
  health.calls_per_s, health.paced_until_ms = rate, math.floor(now + (1 + PAUSES_PACED) * cooldown_ms)
end

-- After an answer; 0 where the pace is over.
local function speed_up(health, now)
  local rate = health.calls_per_s + FASTER
  health.calls_per_s = rate < FASTEST and now < health.paced_until_ms and rate or 0
end

-- A call was refused for a rate limit, and the pause that it asks for did not begin: a pace keeps within it. Where there is
-- none, fewer calls at once do, if the call began within that limit: of many that are refused at once, one says it all.
local function keep_rate(health, load, cooldown_ms, now)
  slow_down(health, load, cooldown_ms, now)
  if load <= 0 or health.calls_per_s > 0 then return end
  if health.concurrency_limit > 0 and health.concurrency_limit < load then return end
  health.concurrency_limit, health.limit_growth = max(1, LESS * load), 1
end

-- A circuit closed: a small limit, which grows by leaps: the provider may be sick yet.
local function begin_anew(health)
  local limit = health.concurrency_limit
  if limit > 0 then health.concurrency_limit, health.limit_growth = max(FIRST_LIMIT, limit / 4), 0 end
end

-- A call that went well lasted so long, its stream included; its waiting, above what calls at low load take, is left out.
local function call_lasted(health, duration_ms, latency_ms, floor)
  local took, average = max(duration_ms, latency_ms), health.call_ms
  if took <= 0 then return end
  if floor > 0 then took = took - max(0, latency_ms - floor) end
  health.call_ms = average == 0 and took or average + (took - average) / 16
end

-- What this replica has under way there now: into the fleet's sums, in which those count that spoke lately. In the hash:
-- session -> calls, those overdue, those that are being answered, and when; and under '' when the sums were made anew, so
-- that dead replicas' calls go.
local COUNTED_FOR_MS, SAID_EVERY_MS, SUMMED_EVERY_MS = 60000, 20000, 15000
local function read_said(text)
  local calls, overdue, answering, at = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+)$')
  return tonumber(calls or 0), tonumber(overdue or 0), tonumber(answering or 0), tonumber(at)
end
local function say_in_flight(health, key, session, calls, overdue, answering, now)
  local said = redis.call('HMGET', key, session, '')
  local calls_before, overdue_before, answering_before, at = read_said(said[1])
  local summed = said[2] and tonumber(said[2])
  if calls < 0 then -- it leaves
    calls, overdue, answering = 0, 0, 0
    redis.call('HDEL', key, session)
  elseif not at or calls_before ~= calls or overdue_before ~= overdue or answering_before ~= answering
    or abs(now - at) >= SAID_EVERY_MS then
    redis.call('HSET', key, session, table.concat({ text(calls), text(overdue), text(answering), text(now) }, ' '))
  end
  if summed and now - summed < SUMMED_EVERY_MS and now >= summed then
    health.in_flight = max(0, health.in_flight + calls - calls_before)
    health.overdue = max(0, health.overdue + overdue - overdue_before)
    health.answering = max(0, health.answering + answering - answering_before)
    return
  end
  local all = redis.call('HGETALL', key)
  health.in_flight, health.overdue, health.answering = 0, 0, 0
  for i = 1, #all, 2 do
    local calls_said, overdue_said, answering_said, at_ms = read_said(all[i + 1])
    if at_ms and abs(now - at_ms) <= COUNTED_FOR_MS then
      health.in_flight, health.overdue = health.in_flight + calls_said, health.overdue + overdue_said
      health.answering = health.answering + answering_said
    elseif all[i] ~= '' then redis.call('HDEL', key, all[i]) end
  end
  redis.call('HSET', key, '', text(now))
end
