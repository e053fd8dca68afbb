-- Every transition that a circuit can make, and what leads to it.
--
-- `circuit/machine.py` is its mirror in Python and its oracle in the tests: the same functions under the same names,
-- in the same order. Whatever decides a circuit's state lives in these two files and nowhere else. There each function
-- returns a new record; here it changes the one that it is given: `health`, or the `record` that also has notes.

local LOCAL_GENERATIONS = 2 ^ 50 -- added at the first transition that a replica makes by itself
local BUCKETS = 10 -- of the sliding window
local MOSTLY_FAILS = 0.4 -- from this failure rate on a provider is no better than nobody
local REOPENINGS = 30 -- so many times at most the open timeout is multiplied
local WEEK_MS = 604800000
local CLOCK_SKEW_MS = 1000 -- another node's clock may be behind a little

-- Do calls that need no permit go well although the circuit is not closed? `answered`: a call was answered now, or else it
-- failed; `rate` is the failure rate after it. The circuit opened by a run of bad luck then, or a part of the calls fails.
local function see_answer(health, answered, rate)
  if health.circuit_state == 'closed' or rate >= MOSTLY_FAILS then
    if not answered then health.still_answers = 0 end
  elseif answered and health.circuit_state == 'open' then health.still_answers = 1 end
end

-- Did this call take longer than it should? Never, where the rule is off.
local function is_slow(health, latency_ms)
  local most = health.slow_call_duration_threshold_ms
  return most > 0 and latency_ms > most and health.slow_call_rate_threshold > 0
end

-- The numbers of one of the window's counts, `passed` buckets later, with their sum.
local function buckets_of(counts, passed)
  local old, buckets = {}, { total = 0 }
  if math.abs(passed) < BUCKETS then
    for each in string.gmatch(counts, '%d+') do old[#old + 1] = tonumber(each) end
  end
  for i = 1, BUCKETS do
    buckets[i] = old[i + passed] or 0
    buckets.total = buckets.total + buckets[i]
  end
  return buckets
end

-- The window's counts of the last ten buckets, newest last. Kept as numbers until `keep_window`: a batch counts often.
local function window(record, now)
  if record.window then return record.window end
  local health = record.health
  local bucket = math.floor(now * BUCKETS / health.window_ms)
  local passed = bucket - health.window_bucket
  if passed < 0 and passed > -BUCKETS then passed, bucket = 0, health.window_bucket end -- the clock was set back a little
  health.window_bucket = bucket
  record.window = {
    calls = buckets_of(health.window_calls, passed),
    failures = buckets_of(health.window_failures, passed),
    slow = buckets_of(health.window_slow, passed),
  }
  return record.window
end

local function keep_window(record)
  if not record.window then return end
  for name, buckets in pairs(record.window) do record.health['window_' .. name] = table.concat(buckets, ' ') end
end

local function forget_window(record)
  local health = record.health
  record.window, health.calls, health.window_bucket = nil, 0, 0
  health.window_calls, health.window_failures, health.window_slow = '', '', ''
end

local function add_one(buckets) buckets[BUCKETS], buckets.total = buckets[BUCKETS] + 1, buckets.total + 1 end

-- Count a call in closed: in the window or, where there is none, up to `minimum_calls`.
local function count(record, success, slow, now)
  local health = record.health
  if health.window_ms > 0 then
    local counts = window(record, now)
    add_one(counts.calls)
    if not success then add_one(counts.failures) end
    if slow then add_one(counts.slow) end
  elseif health.calls < health.minimum_calls then
    health.calls = health.calls + 1
  end
end

-- The rule that opens a closed circuit after this call, nil for none. Rates wait for `minimum_calls`.
local function rule_fired(record, success, slow)
  local health, counts = record.health, record.window
  local calls = counts and counts.calls.total or health.calls
  local enough = calls >= health.minimum_calls
  if not success then
    if enough and health.failure_rate > health.failure_rate_threshold then return 'failure_rate' end
    if health.consecutive_failures >= health.consecutive_failure_limit then return 'consecutive_failures' end
    if counts and enough and health.window_failure_rate_threshold > 0
      and counts.failures.total / calls >= health.window_failure_rate_threshold then
      return 'window_failure_rate'
    end
  end
  if slow and counts and enough and counts.slow.total / calls >= health.slow_call_rate_threshold then
    return 'slow_calls'
  end
end

-- How long an opening lasts at most, before jitter: as long as always, or what backoff may come to.
local function longest_opening_ms(health)
  if health.open_timeout_multiplier <= 1 then return health.open_timeout_ms end
  if health.open_timeout_max_ms <= 0 then return WEEK_MS end
  return math.max(health.open_timeout_max_ms, health.open_timeout_ms)
end

-- How many times `open_timeout_ms` an opening lasts, after so many before it. Each healthy `open_timeout_ms` since the
-- last one took one back, as in Envoy.
local function back_off(health, now, jitter)
  local factor = 1
  if health.open_timeout_multiplier > 1 then
    local times = math.min(health.times_opened, REOPENINGS)
    if health.circuit_state == 'closed' then
      times = math.max(0, times - math.floor(math.max(0, now - health.last_state_change_ms) / health.open_timeout_ms))
    end
    for _ = 1, times do factor = factor * health.open_timeout_multiplier end
    health.times_opened = times + 1
  end
  local most = longest_opening_ms(health) / health.open_timeout_ms
  health.open_timeout_factor = math.min(factor, most) * (1 + health.open_timeout_jitter * jitter)
end

-- The one place where a circuit changes its state.
local function transition(record, to, reason, now)
  local health = record.health
  local by_operator = health.unavailable_reason == 'operator' -- an operator's word outlives what the circuit does
  if to == 'open' then back_off(health, now, record.jitter) end
  health.generation = health.generation + 1
  health.last_state_change_ms = now
  record.transitions[#record.transitions + 1] =
    { from = health.circuit_state, to = to, reason = reason, generation = text(health.generation) }
  health.circuit_state = to
  forget_window(record)
  if to ~= 'half_open' then health.still_answers = 0 end
  if to == 'open' then
    health.open_reason = reason
    if not by_operator then health.available, health.unavailable_reason = 0, 'circuit' end
  elseif to == 'half_open' then
    health.consecutive_failures, health.consecutive_successes = 0, 0
  else
    health.consecutive_failures, health.failure_rate = 0, 0
    begin_anew(health)
    if not by_operator then health.available, health.unavailable_reason = 1, '' end
  end
end

-- What this result makes of its replica's word on the provider, given the record before it; nil: nothing. A late result
-- says nothing, nor does one in open. One that began under a decision of the replica alone is its word.
local function complains(health, success, latency_ms, generation)
  if generation >= LOCAL_GENERATIONS then return not success end
  if generation ~= health.generation or health.circuit_state == 'open' then return nil end
  return not success or is_slow(health, latency_ms)
end

-- For how many ms a provider wants no calls yet: no longer than it said, also where Redis's clock was set back.
local function cooling_for_ms(health, now)
  local left = health.cooldown_until_ms - now
  return left > 0 and left <= health.cooldown_ms + CLOCK_SKEW_MS and left or 0
end

-- A rate limit is no verdict on the circuit: nobody calls until it is over, and the longer of two holds.
local function cool_down(health, cooldown_ms, now)
  local until_ms = math.floor(now + cooldown_ms)
  if until_ms <= now + cooling_for_ms(health, now) then return end
  health.cooldown_until_ms, health.cooldown_ms = until_ms, until_ms - now
end

-- A call begins: nobody makes the next one before its time, where a pace is kept. It ends here, too.
local function keep_pace(health, pause_ms, now)
  if now >= health.paced_until_ms then health.calls_per_s = 0 end
  if health.calls_per_s > 0 then cool_down(health, pause_ms, now) end
end

-- Do as many replicas complain as it takes, or all that call it lately? More than these cannot.
local function is_believed(record)
  if not record.others or record.health.min_reporters <= record.others + 1 then return true end
  record.callers = record.callers or #redis.call('HGETALL', record.callers_key) / 2 - 1
  return record.callers <= record.others + 1
end

-- Fold one call that succeeded or failed into the record and decide on the circuit. `why` is one word on a failure, or
-- ''; `record.others` is how many more replicas complain, nil where that is no matter. `load` and `duration_ms` are of
-- the call as `circuit/outcome.py` has them.
local function fold(record, success, latency_ms, generation, why, now, load, duration_ms)
  local health = record.health
  local answered, floor = answer_rate(health, now), health.floor_latency_ms
  if success then
    if load >= 0 and latency_ms > 0 then learn(health, latency_ms, load, now) end
    call_lasted(health, duration_ms, latency_ms, floor)
    answered = answered + 1000 / COUNTED_OVER_MS
    if health.calls_per_s > 0 then speed_up(health, now) end
  end
  health.answers_per_s = answered
  health.result_gap_ms = health.last_result_ms > 0 and math.max(0, now - health.last_result_ms) or 0
  -- latency_average and failure_rate_average, spelled out: two calls for each outcome would take a tenth of a script's time
  if latency_ms > 0 then
    local average = health.latency_ms
    health.latency_ms = average == 0 and latency_ms or (average * 7 + latency_ms) / 8
  end
  local rate = health.failure_rate
  if success then
    health.failure_rate = rate * 0.5 < 0.01 and 0 or rate * 0.5
  else
    health.failure_rate, health.last_failure = math.min(rate * 0.9 + 0.1, 1), why
  end
  local state = health.circuit_state
  -- of an answer that was told of when it began, nothing is new
  if state ~= 'closed' and (load >= 0 or not success) then see_answer(health, success, health.failure_rate) end
  health.last_check_ms, health.last_result_ms = now, now
  -- a late result moves the averages, never the circuit
  if generation ~= health.generation or state == 'open' then return end
  local slow = is_slow(health, latency_ms)
  if success then
    health.consecutive_successes = health.consecutive_successes + 1
    if state == 'closed' then health.consecutive_failures = 0 end
  else
    health.consecutive_failures, health.consecutive_successes = health.consecutive_failures + 1, 0
  end
  if state == 'closed' then
    if health.window_ms > 0 or health.minimum_calls > 0 then count(record, success, slow, now) end
    local rule = (slow or not success) and rule_fired(record, success, slow)
    if rule and is_believed(record) then transition(record, 'open', rule, now) end
  elseif success and not slow then
    if health.consecutive_successes >= health.half_open_success_threshold then
      transition(record, 'closed', 'half_open_successes', now)
    end
  else
    health.consecutive_successes = 0
    if is_believed(record) then transition(record, 'open', success and 'half_open_probe_slow' or 'half_open_probe_failed', now) end
  end
end

-- Ms until an open circuit may become half-open, by the settings of today. The distance, not the difference: where
-- Redis's clock was set back, the circuit is not open until it caught up.
local function due_in_ms(health, now)
  local most = longest_opening_ms(health) * (1 + health.open_timeout_jitter)
  local lasts = math.min(health.open_timeout_ms * health.open_timeout_factor, most)
  return lasts - math.abs(now - health.last_state_change_ms)
end

-- Move an open circuit to half-open once its time is due; leave any other as it is.
local function half_open(record, now)
  local health = record.health
  if health.circuit_state ~= 'open' or due_in_ms(health, now) > 0 then return end
  transition(record, 'half_open', 'open_timeout', now)
end
