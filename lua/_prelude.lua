-- The health record of one provider, and every transition its circuit can make.
--
-- This text stands in front of every script. `circuit.py` is its mirror in Python and its oracle in the tests:
-- whatever decides a circuit's state lives in these two files and nowhere else.
-- No globals, no shebang: the scripts run unchanged on Redis 6.2+, Valkey and fakeredis.

local SEQ_TTL_MS = 3600000 -- how long a writer's last batch is remembered: longer than any retry of it
local EVENTS_KEPT = 1000

-- Reading order in `HGETALL`: what is going on, the thresholds in force, bookkeeping. Replies have their values so.
local FIELDS = {
  'circuit_state', 'open_reason', 'available', 'unavailable_reason', 'latency_ms', 'failure_rate', 'weight',
  'consecutive_failures', 'consecutive_successes', 'generation', 'last_state_change_ms', 'last_check_ms',
  'failure_rate_threshold', 'consecutive_failure_limit', 'half_open_success_threshold', 'half_open_max_probes',
  'open_timeout_ms', 'leader_epoch', 'last_push_ms', 'version',
}
local DEFAULTS = {
  circuit_state = 'closed', open_reason = '', available = 1, unavailable_reason = '', latency_ms = 0, failure_rate = 0,
  weight = 1, consecutive_failures = 0, consecutive_successes = 0, generation = 1, last_state_change_ms = 0,
  last_check_ms = 0, failure_rate_threshold = 0.5, consecutive_failure_limit = 5, half_open_success_threshold = 3,
  half_open_max_probes = 3, open_timeout_ms = 30000, leader_epoch = 0, last_push_ms = 0, version = 0,
}

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

local WORDS = { circuit_state = true, open_reason = true, unavailable_reason = true }

local function parse(field, value)
  if WORDS[field] then return value end
  return tonumber(value) or error(field .. ' is no number: ' .. value, 0)
end

-- `raw` and `loaded`: what Redis has, in the order of FIELDS, as it stands there and parsed.
local function new_record()
  local record = { raw = {}, loaded = {}, transitions = {} }
  for field, value in pairs(DEFAULTS) do record[field] = value end
  return record
end

-- nil where Redis has no such record (never registered, or lost).
local function load(key)
  local raw, loaded = redis.call('HMGET', key, unpack(FIELDS)), {}
  if not raw[1] then return nil end
  local record = { raw = raw, loaded = loaded, transitions = {} }
  for i = 1, #FIELDS do
    loaded[i] = raw[i] and parse(FIELDS[i], raw[i]) -- else of an older version, and written with the next change
    record[FIELDS[i]] = loaded[i] or DEFAULTS[FIELDS[i]]
    raw[i] = raw[i] or text(DEFAULTS[FIELDS[i]])
  end
  return record
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

-- The one place where a circuit changes its state.
local function transition(record, to, reason, now)
  local by_operator = record.unavailable_reason == 'operator' -- an operator's word outlives what the circuit does
  record.generation = record.generation + 1
  record.last_state_change_ms = now
  record.transitions[#record.transitions + 1] =
    { from = record.circuit_state, to = to, reason = reason, generation = text(record.generation) }
  record.circuit_state = to
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

-- Fold one outcome, of a call that began in `generation`, into the record and decide on the circuit.
local function fold(record, success, latency_ms, generation, now)
  if latency_ms > 0 then
    if record.latency_ms == 0 then record.latency_ms = latency_ms
    else record.latency_ms = (record.latency_ms * 7 + latency_ms) / 8 end
  end
  if success then
    record.failure_rate = record.failure_rate * 0.5
    if record.failure_rate < 0.01 then record.failure_rate = 0 end
  else
    record.failure_rate = math.min(record.failure_rate * 0.9 + 0.1, 1)
  end
  record.last_check_ms = now
  -- A late result, or one in open, moves the averages, never the circuit.
  if generation ~= record.generation or record.circuit_state == 'open' then return end
  if success then
    record.consecutive_successes = record.consecutive_successes + 1
    if record.circuit_state == 'closed' then
      record.consecutive_failures = 0
    elseif record.consecutive_successes >= record.half_open_success_threshold then
      transition(record, 'closed', 'half_open_successes', now)
    end
    return
  end
  record.consecutive_failures = record.consecutive_failures + 1
  record.consecutive_successes = 0
  if record.circuit_state == 'half_open' then
    transition(record, 'open', 'half_open_probe_failed', now)
  elseif record.failure_rate > record.failure_rate_threshold then
    transition(record, 'open', 'failure_rate', now)
  elseif record.consecutive_failures >= record.consecutive_failure_limit then
    transition(record, 'open', 'consecutive_failures', now)
  end
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
    members[#members + 1] = field
    members[#members + 1] = record.raw[i] or text(record[field])
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
