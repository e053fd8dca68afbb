-- The health record of one provider, and every transition its circuit can make.
--
-- This text stands in front of every script. `circuit.py` is its mirror in Python and its oracle in the tests:
-- whatever decides a circuit's state lives in these two files and nowhere else.
-- No globals, no shebang: the scripts run unchanged on Redis 6.2+, Valkey and fakeredis.

local SEQ_TTL_MS = 3600000 -- how long a writer's last batch is remembered: longer than any retry of it
local EVENTS_KEPT = 1000

local BUCKETS = 10 -- of the sliding window
local FAILURE_PENALTY_MS = 5000 -- what a failure counts for in balancing, as linkerd has it
local PEAK_TAU_MS = 10000 -- how fast a peak is forgotten: Finagle's decay
local REOPENINGS = 30 -- so many times at most the open timeout is multiplied
local WEEK_MS = 604800000

-- Reading order in `HGETALL`: what is going on, the thresholds in force, bookkeeping. Replies have their values so.
local FIELDS = {
  'circuit_state', 'open_reason', 'last_failure', 'available', 'unavailable_reason', 'cooldown_until_ms', 'latency_ms',
  'peak_latency_ms', 'failure_rate', 'weight', 'consecutive_failures', 'consecutive_successes', 'calls', 'window_bucket',
  'window_calls', 'window_failures', 'window_slow', 'times_opened', 'open_timeout_factor', 'generation',
  'last_state_change_ms', 'last_check_ms',
  'failure_rate_threshold', 'consecutive_failure_limit', 'half_open_success_threshold', 'half_open_max_probes',
  'open_timeout_ms', 'minimum_calls', 'window_ms', 'window_failure_rate_threshold', 'slow_call_duration_threshold_ms',
  'slow_call_rate_threshold', 'open_timeout_multiplier', 'open_timeout_max_ms', 'open_timeout_jitter', 'min_reporters',
  'slow_start_ms', 'leader_epoch', 'last_push_ms', 'version',
}
local DEFAULTS = {
  circuit_state = 'closed', open_reason = '', last_failure = '', available = 1, unavailable_reason = '', latency_ms = 0,
  peak_latency_ms = 0, failure_rate = 0, weight = 1, consecutive_failures = 0, consecutive_successes = 0, generation = 1, last_state_change_ms = 0,
  last_check_ms = 0, failure_rate_threshold = 0.5, consecutive_failure_limit = 5, half_open_success_threshold = 3,
  half_open_max_probes = 3, open_timeout_ms = 30000, leader_epoch = 0, last_push_ms = 0, version = 0,
}
-- What is off, or says nothing, while it has this value: then it is neither written nor pushed.
local QUIET = {
  cooldown_until_ms = 0, calls = 0, window_bucket = 0, window_calls = '', window_failures = '', window_slow = '',
  times_opened = 0, open_timeout_factor = 1, minimum_calls = 0, window_ms = 0, window_failure_rate_threshold = 0,
  slow_call_duration_threshold_ms = 0, slow_call_rate_threshold = 0, open_timeout_multiplier = 0,
  open_timeout_max_ms = 0, open_timeout_jitter = 0, min_reporters = 0, slow_start_ms = 0,
}
for field, value in pairs(QUIET) do DEFAULTS[field] = value end

-- Milliseconds on Redis's own clock, and microseconds; `given` is a test's own time, '' everywhere else.
local function clock(given)
  if given ~= '' then return tonumber(given), tonumber(given) * 1000 end
  local time = redis.call('TIME')
  local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
  return math.floor(us / 1000), us
end

-- The shortest decimal text that reads back as the same double: 0.1, not 0.10000000000000001; whole numbers in full.
local function text(value)
  if type(value) == 'string' then return value end
  if value == math.floor(value) then return string.format('%.0f', value) end
  local short = string.format('%.15g', value)
  if tonumber(short) == value then return short end
  return string.format('%.17g', value)
end

local WORDS = {
  circuit_state = true, open_reason = true, last_failure = true, unavailable_reason = true, window_calls = true,
  window_failures = true, window_slow = true,
}

local function parse(field, value)
  if WORDS[field] then return value end
  return tonumber(value) or error(field .. ' is no number: ' .. value, 0)
end

-- `raw` and `loaded`: what Redis has, in the order of FIELDS, as it stands there and parsed.
local function record_of(raw)
  local record, loaded = { raw = raw, transitions = {} }, {}
  for i = 1, #FIELDS do
    local field = FIELDS[i]
    if raw[i] then loaded[i] = parse(field, raw[i])
    else -- quiet, or of an older version: then it is written with the next change
      loaded[i] = QUIET[field]
      raw[i] = text(DEFAULTS[field])
    end
    if loaded[i] == nil then record[field] = DEFAULTS[field] else record[field] = loaded[i] end
  end
  record.loaded = loaded
  return record
end

local function new_record() return record_of({}) end

-- nil where Redis has no such record (never registered, or lost).
local function load(key)
  local raw = redis.call('HMGET', key, unpack(FIELDS))
  return raw[1] and record_of(raw) or nil
end

-- Writes the fields that changed. `version` never falls, even where Redis lost a newer one: it follows the clock.
local function save(key, record, now_us)
  local raw, loaded, changed, last = record.raw, record.loaded, {}, #FIELDS
  for i = 1, last do
    local field = FIELDS[i]
    if i == last and #changed > 0 then record.version = math.max(record.version + 1, now_us) end
    if record[field] ~= loaded[i] then
      raw[i] = text(record[field])
      changed[#changed + 1], changed[#changed + 2] = field, raw[i]
    end
  end
  if #changed > 0 then redis.call('HSET', key, unpack(changed)) end
end

-- The sliding window of `window_ms`: calls, failures and slow calls of the last ten buckets, newest last.

local COUNTS = { 'window_calls', 'window_failures', 'window_slow' }

local function forget_window(record)
  record.window, record.calls, record.window_bucket = nil, 0, 0
  for _, field in ipairs(COUNTS) do record[field] = '' end
end

-- Read once a script, moved on to `now`, with the sums of its buckets.
local function window(record, now)
  if record.window then return record.window end
  local bucket = math.floor(now * BUCKETS / record.window_ms)
  local passed = bucket - record.window_bucket
  if passed < 0 and passed > -BUCKETS then passed, bucket = 0, record.window_bucket end -- the clock was set back a little
  record.window, record.window_bucket = {}, bucket
  for _, field in ipairs(COUNTS) do
    local old, buckets = {}, { total = 0 }
    if math.abs(passed) < BUCKETS then
      for number in string.gmatch(record[field], '%d+') do old[#old + 1] = tonumber(number) end
    end
    for i = 1, BUCKETS do
      buckets[i] = old[i + passed] or 0
      buckets.total = buckets.total + buckets[i]
    end
    record.window[field] = buckets
  end
  return record.window
end

local function keep_window(record)
  for field, buckets in pairs(record.window or {}) do record[field] = table.concat(buckets, ' ') end
end

-- Count a call in closed: in the window or, where there is none, up to `minimum_calls`.
local function count(record, success, slow, now)
  if record.window_ms > 0 then
    local counts = window(record, now)
    for field, counted in pairs({ window_calls = true, window_failures = not success, window_slow = slow }) do
      if counted then
        counts[field][BUCKETS], counts[field].total = counts[field][BUCKETS] + 1, counts[field].total + 1
      end
    end
  elseif record.calls < record.minimum_calls then
    record.calls = record.calls + 1
  end
end

-- How many times `open_timeout_ms` an opening lasts, after so many before it; each healthy `open_timeout_ms` since the
-- last one took one back, as in Envoy.
local function back_off(record, now)
  local factor, most = 1, WEEK_MS / record.open_timeout_ms
  if record.open_timeout_max_ms > 0 then most = math.min(most, record.open_timeout_max_ms / record.open_timeout_ms) end
  if record.open_timeout_multiplier > 1 then
    if record.circuit_state == 'closed' then
      local healthy = math.floor(math.max(0, now - record.last_state_change_ms) / record.open_timeout_ms)
      record.times_opened = math.max(0, record.times_opened - healthy)
    end
    for _ = 1, record.times_opened do factor = factor * record.open_timeout_multiplier end
    record.times_opened = math.min(record.times_opened + 1, REOPENINGS)
  end
  record.open_timeout_factor = math.min(factor, most) * (1 + record.open_timeout_jitter * (record.jitter or 0))
end

-- The one place where a circuit changes its state.
local function transition(record, to, reason, now)
  local by_operator = record.unavailable_reason == 'operator' -- an operator's word outlives what the circuit does
  if to == 'open' then back_off(record, now) end
  record.generation = record.generation + 1
  record.last_state_change_ms = now
  record.transitions[#record.transitions + 1] =
    { from = record.circuit_state, to = to, reason = reason, generation = text(record.generation) }
  record.circuit_state = to
  forget_window(record)
  if to == 'open' then
    record.open_reason = reason
    if not by_operator then record.available, record.unavailable_reason = 0, 'circuit' end
  elseif to == 'half_open' then
    record.consecutive_failures, record.consecutive_successes = 0, 0
  else
    record.consecutive_failures, record.failure_rate = 0, 0
    if not by_operator then record.available, record.unavailable_reason = 1, '' end
  end
end

-- Has `open_timeout_ms`, with backoff and jitter, passed? The distance, not the difference: where Redis's clock was set
-- back, the circuit is not open until it caught up.
local function is_due(record, now)
  return math.abs(now - record.last_state_change_ms) >= record.open_timeout_ms * record.open_timeout_factor
end

-- The rule that opens a closed circuit after this call, nil for none. Rates wait for `minimum_calls`.
local function rule_fired(record, success, slow)
  local counts = record.window
  local calls = counts and counts.window_calls.total or record.calls
  local enough = calls >= record.minimum_calls
  if not success then
    if enough and record.failure_rate > record.failure_rate_threshold then return 'failure_rate' end
    if record.consecutive_failures >= record.consecutive_failure_limit then return 'consecutive_failures' end
    if counts and enough and record.window_failure_rate_threshold > 0
      and counts.window_failures.total / calls >= record.window_failure_rate_threshold then
      return 'window_failure_rate'
    end
  end
  if slow and counts and enough and counts.window_slow.total / calls >= record.slow_call_rate_threshold then
    return 'slow_calls'
  end
end

-- Do enough replicas complain to believe this one? `others` is how many more do; nil where nobody was counted.
local function believed(record)
  return record.min_reporters <= 1 or (record.others or 0) + 1 >= record.min_reporters
end

local function is_slow(record, latency_ms)
  return record.slow_call_rate_threshold > 0 and record.slow_call_duration_threshold_ms > 0
    and latency_ms > record.slow_call_duration_threshold_ms
end

-- Peak EWMA, for balancing alone: up at once, down by and by. A failure counts as a slow call.
local function peak_of(record, success, latency_ms, now)
  local peak, sample = record.peak_latency_ms, latency_ms
  if not success then sample = math.max(latency_ms, FAILURE_PENALTY_MS, record.latency_ms) end
  if sample <= 0 then return peak end
  if sample >= peak then return sample end
  local kept = PEAK_TAU_MS / (PEAK_TAU_MS + math.max(0, now - record.last_check_ms)) -- for exp(-t/tau): the same everywhere
  return peak * kept + sample * (1 - kept)
end

-- Fold one call that succeeded or failed, and began in `generation`, into the record and decide on the circuit. `why`
-- is one word on a failure, or ''.
local function fold(record, success, latency_ms, generation, why, now)
  record.peak_latency_ms = peak_of(record, success, latency_ms, now)
  if latency_ms > 0 then
    if record.latency_ms == 0 then record.latency_ms = latency_ms
    else record.latency_ms = (record.latency_ms * 7 + latency_ms) / 8 end
  end
  if success then
    record.failure_rate = record.failure_rate * 0.5
    if record.failure_rate < 0.01 then record.failure_rate = 0 end
  else
    record.failure_rate = math.min(record.failure_rate * 0.9 + 0.1, 1)
    record.last_failure = why
  end
  record.last_check_ms = now
  -- A late result, or one in open, moves the averages, never the circuit.
  if generation ~= record.generation or record.circuit_state == 'open' then return end
  local slow = is_slow(record, latency_ms)
  if success then
    record.consecutive_successes = record.consecutive_successes + 1
    if record.circuit_state == 'closed' then record.consecutive_failures = 0 end
  else
    record.consecutive_failures = record.consecutive_failures + 1
    record.consecutive_successes = 0
  end
  if record.circuit_state == 'closed' then
    count(record, success, slow, now)
    local rule = rule_fired(record, success, slow)
    if rule and believed(record) then transition(record, 'open', rule, now) end
  elseif success and not slow then
    if record.consecutive_successes >= record.half_open_success_threshold then
      transition(record, 'closed', 'half_open_successes', now)
    end
  else
    record.consecutive_successes = 0
    if believed(record) then
      transition(record, 'open', success and 'half_open_probe_slow' or 'half_open_probe_failed', now)
    end
  end
end

-- A rate limit is no verdict on the circuit: nobody calls until it is over, and the longer of two holds.
local function cool_down(record, cooldown_ms, now)
  local until_ms = math.floor(now + cooldown_ms)
  if until_ms <= record.cooldown_until_ms then return end
  -- told at once where it is news; of many calls that were under way, each says a few ms more
  record.cooled = record.cooled or record.cooldown_until_ms <= now or until_ms - record.cooldown_until_ms >= 1000
  record.cooldown_until_ms = until_ms
end

-- Exactly once: what this writer's batch `seq` did when it was applied and how many outcomes it had, nil when it was
-- not applied yet.
local function replayed(key, seq)
  local last, applied, did = string.match(redis.call('GET', key) or '', '^(%d+) (%d+) (.*)$')
  if not last or tonumber(last) < seq then return nil end
  if tonumber(last) == seq then return did, applied end
  return '', '0'
end

local function remember(key, seq, applied, did)
  redis.call('SET', key, text(seq) .. ' ' .. text(applied) .. ' ' .. did, 'PX', SEQ_TTL_MS)
end

-- Transitions as one word-list a transition, for the reply and for `replayed`.
local function told(transitions)
  local lines = {}
  for i, t in ipairs(transitions) do
    lines[i] = t.from .. ' ' .. t.to .. ' ' .. t.reason .. ' ' .. t.generation
  end
  return table.concat(lines, ';')
end

-- JSON with its members in the order given: {name, value, ...}, for people who SUBSCRIBE.
local function object(members)
  local parts = {}
  for i = 1, #members, 2 do
    local value = members[i + 1]
    if type(value) == 'table' then value = object(value) else value = cjson.encode(value) end
    parts[#parts + 1] = cjson.encode(members[i]) .. ':' .. value
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function members_of(record)
  local members = {}
  for i, field in ipairs(FIELDS) do
    if record[field] ~= QUIET[field] then
      members[#members + 1] = field
      members[#members + 1] = record.raw[i]
    end
  end
  return members
end

local function provider_of(key) return string.match(key, '{(.-)}') end

-- Saves, logs and announces what a script did, in that order. `action` names an operator's or worker's change.
-- Averages alone are pushed at most once in `push_interval` ms.
local function commit(keys, channel, by, record, now, now_us, action, push_interval)
  local moved = #record.transitions > 0 or action ~= nil
  local push = moved or now - record.last_push_ms >= push_interval or now < record.last_push_ms
  if push then record.last_push_ms = now end
  keep_window(record)
  save(keys.health, record, now_us)
  if not push then return end
  local provider = provider_of(keys.health)
  for _, t in ipairs(record.transitions) do
    -- pcall: what is decided and saved stands, also where the log cannot be written
    redis.pcall('XADD', keys.events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', 'transition', 'from', t.from, 'to', t.to,
      'reason', t.reason, 'generation', t.generation, 'by', by)
    redis.call('PUBLISH', channel, object({ 'event', 'transition', 'provider', provider, 'from', t.from, 'to', t.to,
      'reason', t.reason, 'generation', t.generation, 'by', by, 'health', members_of(record) }))
  end
  if action then
    redis.pcall('XADD', keys.events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', action.event, 'detail', action.detail, 'by', by)
    redis.call('PUBLISH', channel, object({ 'event', action.event, 'provider', provider, 'detail', action.detail,
      'by', by, 'health', members_of(record) }))
  elseif not moved then
    redis.call('PUBLISH', channel, object({ 'event', 'averages', 'provider', provider, 'by', by,
      'health', members_of(record) }))
  end
end

-- What every script on a record answers: a status word, the transitions, how many outcomes were applied, and the
-- record's values in the order of FIELDS.
local function reply(status, transitions, record, applied)
  return { status, transitions, applied or '0', unpack(record and record.raw or {}) }
end
