-- The health record of one provider, and every transition its circuit can make.
--
-- This text stands in front of every script. `circuit.py` is its mirror in Python and its oracle in the tests:
-- whatever decides a circuit's state lives in these two files and nowhere else.
-- No globals, no shebang: the scripts run unchanged on Redis 7.0+, Valkey and fakeredis.

local SEQ_TTL_MS = 3600000 -- how long a writer's last batch is remembered: longer than any retry of it
local EVENTS_KEPT = 1000

local BUCKETS = 10 -- of the sliding window
local REOPENINGS = 30 -- so many times at most the open timeout is multiplied
local WEEK_MS = 604800000
local LOCAL_GENERATIONS = 2 ^ 50 -- those that a replica made by itself, as in local.py
local STATES = { closed = true, open = true, half_open = true }
local LARGEST = 2 ^ 53 -- whole numbers are exact up to here; no field of ours is negative

-- What is off, or says nothing, while it has this value: then it is neither written nor pushed, nor in a reply.
local QUIET = {
  cooldown_until_ms = 0, cooldown_ms = 0, calls = 0, window_bucket = 0, window_calls = '', window_failures = '',
  window_slow = '', times_opened = 0, open_timeout_factor = 1, minimum_calls = 0, window_ms = 0,
  window_failure_rate_threshold = 0, slow_call_duration_threshold_ms = 0, slow_call_rate_threshold = 0,
  open_timeout_multiplier = 0, open_timeout_max_ms = 0, open_timeout_jitter = 0, min_reporters = 0, slow_start_ms = 0,
  probe_result = '', circuit_version = 0, declined_settings = '',
}
local OR_QUIET = { __index = QUIET }
-- All other fields: a word, or a number.
local ALWAYS_KNOWN, W, N = 22, 'word', 'number'
local ALWAYS = {
  circuit_state = W, open_reason = W, last_failure = W, available = N, unavailable_reason = W, latency_ms = N,
  failure_rate = N, weight = N, consecutive_failures = N, consecutive_successes = N, generation = N,
  last_state_change_ms = N, last_check_ms = N, last_result_ms = N, failure_rate_threshold = N,
  consecutive_failure_limit = N, half_open_success_threshold = N, half_open_max_probes = N, open_timeout_ms = N,
  leader_epoch = N, last_push_ms = N, version = N,
}

-- Their values in a new record, in reading order: what is going on, the thresholds in force, bookkeeping. A function, as
-- few calls need it.
local function fields_of_a_new_record()
  return {
    'circuit_state', 'closed', 'open_reason', '', 'last_failure', '', 'available', '1', 'unavailable_reason', '',
    'latency_ms', '0', 'failure_rate', '0', 'weight', '1', 'consecutive_failures', '0',
    'consecutive_successes', '0', 'generation', '1', 'last_state_change_ms', '0', 'last_check_ms', '0',
    'last_result_ms', '0', 'failure_rate_threshold', '0.5', 'consecutive_failure_limit', '5',
    'half_open_success_threshold', '3', 'half_open_max_probes', '3', 'open_timeout_ms', '30000', 'leader_epoch', '0',
    'last_push_ms', '0', 'version', '0',
  }
end

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

-- A number that a record or a lease can hold; nil for anything else: no number, negative, infinite, not-a-number.
local function number(value)
  local found = tonumber(value)
  return found and found >= 0 and found <= LARGEST and found or nil
end

local function parse(field, value)
  local kind = ALWAYS[field] or type(QUIET[field])
  -- the first word says whose fault it is, whatever the value says
  if field == 'circuit_state' and not STATES[value] then
    error('BADRECORD circuit_state is no state: ' .. value, 0)
  end
  if kind == 'number' then return number(value) or error('BADRECORD ' .. field .. ' is no number from 0 up: ' .. value, 0) end
  return value -- a word, or a note that a hand left there
end

-- A record, given field, value, ... as they stand in Redis. `stored` are these, changed in place when they are written;
-- `loaded` their values, at the same places.
local function record_of(stored)
  local record, loaded, always = setmetatable({}, OR_QUIET), {}, 0
  for i = 1, #stored, 2 do
    local field = stored[i]
    local value = parse(field, stored[i + 1])
    record[field], loaded[i] = value, value
    if ALWAYS[field] then always = always + 1 end
  end
  if always < ALWAYS_KNOWN then -- of an older version, or a hand took them away: written with the next change
    local new = fields_of_a_new_record()
    for i = 1, #new, 2 do
      if record[new[i]] == nil then
        record[new[i]] = parse(new[i], new[i + 1])
        stored[#stored + 1], stored[#stored + 2] = new[i], new[i + 1]
      end
    end
  end
  -- last: no field that a hand added is taken for them
  record.stored, record.loaded, record.transitions = stored, loaded, {}
  record.window, record.others, record.cooled, record.complains, record.counts = false, 0, false, nil, false
  return record
end

local function new_record() return record_of({}) end

-- nil where Redis has no such record (never registered, or lost).
local function load(key)
  local stored = redis.call('HGETALL', key)
  for i = 1, #stored, 2 do
    if stored[i] == 'circuit_state' then return record_of(stored) end
  end
  return nil
end

-- The fields that changed, and the new version; nil where nothing did. `version` never falls, even where Redis lost a
-- newer one: it follows the clock.
local function changes(record, now_us)
  local stored, loaded, changed, version = record.stored, record.loaded, {}, nil
  local known = #stored
  for field, quiet in pairs(QUIET) do -- those that say something for the first time
    local value = rawget(record, field)
    if value ~= nil and value ~= quiet then
      local at = 1
      while at <= known and stored[at] ~= field do at = at + 2 end
      if at > known then stored[#stored + 1], stored[#stored + 2] = field, '' end
    end
  end
  for i = 1, #stored, 2 do
    local field = stored[i]
    local value = record[field]
    if field == 'version' then
      version = i
    elseif value ~= loaded[i] and (ALWAYS[field] or QUIET[field] ~= nil) then -- not what only bears such a name
      stored[i + 1] = text(value)
      changed[#changed + 1], changed[#changed + 2] = field, stored[i + 1]
    end
  end
  if #changed == 0 and loaded[version] then return nil end
  record.version = math.max(record.version + 1, now_us)
  stored[version + 1] = text(record.version)
  changed[#changed + 1], changed[#changed + 2] = 'version', stored[version + 1]
  return changed
end

-- The sliding window of `window_ms`: calls, failures and slow calls of the last ten buckets, newest last.

local COUNTS = { 'window_calls', 'window_failures', 'window_slow' }

local function forget_window(record)
  record.window, record.calls, record.window_bucket = false, 0, 0
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

-- How long an opening lasts at most, before jitter: as long as always, or what backoff may come to.
local function longest(record)
  if record.open_timeout_multiplier <= 1 then return record.open_timeout_ms end
  if record.open_timeout_max_ms <= 0 then return WEEK_MS end
  return math.max(record.open_timeout_max_ms, record.open_timeout_ms)
end

-- How many times `open_timeout_ms` an opening lasts, after so many before it; each healthy `open_timeout_ms` since the
-- last one took one back, as in Envoy.
local function back_off(record, now)
  local factor = 1
  if record.open_timeout_multiplier > 1 then
    local times = math.min(record.times_opened, REOPENINGS)
    if record.circuit_state == 'closed' then
      times = math.max(0, times - math.floor(math.max(0, now - record.last_state_change_ms) / record.open_timeout_ms))
    end
    for _ = 1, times do factor = factor * record.open_timeout_multiplier end
    record.times_opened = times + 1
  end
  local most = longest(record) / record.open_timeout_ms
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

-- Has the opening lasted as long as it should, by the settings of today? The distance, not the difference: where Redis's
-- clock was set back, the circuit is not open until it caught up.
local function is_due(record, now)
  local most = longest(record) * (1 + record.open_timeout_jitter)
  return math.abs(now - record.last_state_change_ms) >= math.min(record.open_timeout_ms * record.open_timeout_factor, most)
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
  local most = record.slow_call_duration_threshold_ms
  return most > 0 and latency_ms > most and record.slow_call_rate_threshold > 0
end

-- Fold one call that succeeded or failed, and began in `generation`, into the record and decide on the circuit. `why`
-- is one word on a failure, or ''.
local function fold(record, success, latency_ms, generation, why, now)
  if latency_ms > 0 then
    local average = record.latency_ms
    record.latency_ms = average == 0 and latency_ms or (average * 7 + latency_ms) / 8
  end
  local rate = record.failure_rate
  if not success then
    record.failure_rate = math.min(rate * 0.9 + 0.1, 1)
    record.last_failure = why
  elseif rate > 0 then
    record.failure_rate = rate * 0.5 < 0.01 and 0 or rate * 0.5
  end
  record.last_check_ms, record.last_result_ms = now, now
  -- A late result, or one in open, moves the averages, never the circuit.
  local state = record.circuit_state
  -- a trial of a replica whose own view is open: no verdict, and still its word
  if generation >= LOCAL_GENERATIONS then record.complains = not success end
  if generation ~= record.generation or state == 'open' then return end
  local slow = is_slow(record, latency_ms)
  record.complains = not success or slow
  if success then
    record.consecutive_successes = record.consecutive_successes + 1
    if state == 'closed' then record.consecutive_failures = 0 end
  else
    record.consecutive_failures = record.consecutive_failures + 1
    record.consecutive_successes = 0
  end
  if state == 'closed' then
    if record.counts then count(record, success, slow, now) end
    local rule = record.complains and rule_fired(record, success, slow)
    if rule and believed(record) then transition(record, 'open', rule, now) end
  elseif not record.complains then
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

-- Does a provider want no calls now? No longer than it said, also where Redis's clock was set back.
local function is_cooling(record, now)
  local left = record.cooldown_until_ms - now
  return left > 0 and left <= record.cooldown_ms + 1000 -- another node's clock may be behind a little
end

-- A rate limit is no verdict on the circuit: nobody calls until it is over, and the longer of two holds.
local function cool_down(record, cooldown_ms, now)
  local until_ms, cooling = math.floor(now + cooldown_ms), is_cooling(record, now)
  if until_ms <= now or (cooling and until_ms <= record.cooldown_until_ms) then return end
  -- told at once where it is news; of many calls that were under way, each says a few ms more
  record.cooled = record.cooled or not cooling or until_ms - record.cooldown_until_ms >= 1000
  record.cooldown_until_ms, record.cooldown_ms = until_ms, until_ms - now
end

-- Exactly once: a note of this writer's last batch, with what it did and how many outcomes it had.
local function noted(key) return { key = key, before = redis.call('GET', key) } end

-- What batch `seq` did when it was applied, and how many outcomes it had; nil when it was not applied yet.
local function replayed(note, seq)
  note.seq = seq
  local last, applied, did = string.match(note.before or '', '^(%d+) (%d+) (.*)$')
  if not last or tonumber(last) < seq then return nil end
  if tonumber(last) == seq then return did, applied end
  return '', '0'
end

-- Writes the record and the note, or neither. A script is not rolled back: where the record's write is refused, as when
-- a right was revoked, the note is put back, or what was never written would count as applied.
local function write(key, changed, note)
  if note then
    local text_of_note = text(note.seq) .. ' ' .. note.applied .. ' ' .. note.did
    redis.call('SET', note.key, text_of_note, 'PX', SEQ_TTL_MS)
  end
  local done = changed and redis.pcall('HSET', key, unpack(changed))
  if type(done) ~= 'table' or not done.err then return end
  if note then redis.call('SET', note.key, note.before or '', 'PX', SEQ_TTL_MS) end
  redis.call('HSET', key, unpack(changed)) -- once more, for its error
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

local function provider_of(key) return string.match(key, '{(.-)}') end

-- Announces the record as it is, without a change of its circuit.
local function push_averages(key, channel, by, record)
  redis.call('PUBLISH', channel, object({ 'event', 'averages', 'provider', provider_of(key), 'by', by,
    'health', record.stored }))
end

-- Saves, logs and announces what a script did, in that order. `action` names an operator's or worker's change.
-- Averages alone are pushed at most once in `push_interval` ms. `note` is of the batch: see `noted`.
local function commit(keys, channel, by, record, now, now_us, action, push_interval, note)
  local moved = #record.transitions > 0 or action ~= nil
  local push = moved or now - record.last_push_ms >= push_interval or now < record.last_push_ms
  if push then record.last_push_ms = now end
  keep_window(record)
  write(keys.health, changes(record, now_us), note)
  if not push then return end
  local provider = provider_of(keys.health)
  for _, t in ipairs(record.transitions) do
    -- pcall: what is decided and saved stands, also where the log cannot be written
    redis.pcall('XADD', keys.events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', 'transition', 'from', t.from, 'to', t.to,
      'reason', t.reason, 'generation', t.generation, 'by', by)
    redis.call('PUBLISH', channel, object({ 'event', 'transition', 'provider', provider, 'from', t.from, 'to', t.to,
      'reason', t.reason, 'generation', t.generation, 'by', by, 'health', record.stored }))
  end
  if action then
    if action.event ~= 'cooling' then -- so many of them would push what matters out of the log
      redis.pcall('XADD', keys.events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', action.event, 'detail', action.detail,
        'by', by)
    end
    redis.call('PUBLISH', channel, object({ 'event', action.event, 'provider', provider, 'detail', action.detail,
      'by', by, 'health', record.stored }))
  elseif not moved then
    push_averages(keys.health, channel, by, record)
  end
end

-- What every script on a record answers: a status word, the transitions, how many outcomes were applied, and the
-- record's fields and values.
local function reply(status, transitions, record, applied)
  return { status, transitions, applied or '0', unpack(record and record.stored or {}) }
end
