-- The health record of one provider: its fields, how they are read, what of them is written, which of two copies wins.
--
-- _record.lua, _overrides.lua, _capacity.lua, _circuit.lua and _announce.lua stand in front of every script, in this order.
-- `circuit/record.py` is this file's mirror in Python. No globals, no shebang: the scripts run unchanged on Redis 7.0+,
-- Valkey and fakeredis.

-- Of the fields below; each record names the schema that it was written by. It is raised when an older version would
-- misread what a newer one writes. A field that older versions may overlook needs no new schema: they leave it alone.
-- In the record, not in rr:providers: a script reads its own provider's keys only, and a record may be lost alone.
local SCHEMA = 1

-- Name, kind, default, in reading order: what is going on, the thresholds in force, bookkeeping. A field whose kind has
-- a question mark is stored once it is not its default; all others always are.
local FIELDS = {
  'circuit_state', 'word', 'closed', 'open_reason', 'word', '', 'still_answers', 'number?', 0, 'last_failure', 'word', '',
  'available', 'number', 1, 'unavailable_reason', 'word', '', 'probe_result', 'word?', '',
  'cooldown_until_ms', 'number?', 0, 'cooldown_ms', 'number?', 0, 'cooling_logged_ms', 'number?', 0,
  'latency_ms', 'number', 0, 'failure_rate', 'number', 0, 'weight', 'number', 1,
  'consecutive_failures', 'number', 0, 'consecutive_successes', 'number', 0, 'calls', 'number?', 0,
  'window_bucket', 'number?', 0, 'window_calls', 'word?', '', 'window_failures', 'word?', '', 'window_slow', 'word?', '',
  'times_opened', 'number?', 0, 'open_timeout_factor', 'number?', 1, 'generation', 'number', 1,
  'last_state_change_ms', 'number', 0, 'last_check_ms', 'number', 0, 'last_result_ms', 'number', 0,
  'result_gap_ms', 'number?', 0, 'answers_per_s', 'number?', 0,
  'calls_per_s', 'number?', 0, 'paced_until_ms', 'number?', 0, 'in_flight', 'number?', 0, 'overdue', 'number?', 0,
  'answering', 'number?', 0,
  'concurrency_limit', 'number?', 0, 'limit_growth', 'number?', 0,
  'samples', 'number?', 0, 'usual_latency_ms', 'number?', 0, 'latency_deviation_ms', 'number?', 0,
  'floor_latency_ms', 'number?', 0, 'near_latency_ms', 'number?', 0, 'near_load', 'number?', 0,
  'longest_latency_ms', 'number?', 0, 'call_ms', 'number?', 0,
  'override', 'word?', '', 'override_since_ms', 'number?', 0, 'override_until_ms', 'number?', 0,
  'override_by', 'word?', '', 'override_reason', 'word?', '',
  'weight_override', 'number?', 0, 'weight_override_since_ms', 'number?', 0, 'weight_override_until_ms', 'number?', 0,
  'weight_override_by', 'word?', '', 'weight_override_reason', 'word?', '',

  'failure_rate_threshold', 'number', 0.5, 'consecutive_failure_limit', 'number', 5,
  'half_open_success_threshold', 'number', 3, 'half_open_max_probes', 'number', 3, 'open_timeout_ms', 'number', 30000,
  'minimum_calls', 'number?', 0, 'window_ms', 'number?', 0, 'window_failure_rate_threshold', 'number?', 0,
  'slow_call_duration_threshold_ms', 'number?', 0, 'slow_call_rate_threshold', 'number?', 0,
  'open_timeout_multiplier', 'number?', 0, 'open_timeout_max_ms', 'number?', 0, 'open_timeout_jitter', 'number?', 0,
  'min_reporters', 'number?', 0, 'slow_start_ms', 'number?', 0,

  'circuit_version', 'number?', 0, 'declined_settings', 'word?', '', 'schema', 'number', SCHEMA,
  'leader_epoch', 'number', 0, 'last_push_ms', 'number', 0, 'version', 'number', 0,
}
local STATES = { closed = true, open = true, half_open = true }
local LARGEST = 2 ^ 53 -- whole numbers are exact up to here; no field of ours is negative

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

-- The first word says whose fault it is, whatever the value says.
local function bad_record(why) error('BADRECORD ' .. why, 0) end

-- The texts in a flat array of fields and values, by field. A record of a schema that is newer than ours is refused before
-- anything of it is read, whatever else is in it.
local function texts_of(stored)
  local texts = {}
  for i = 1, #stored, 2 do texts[stored[i]] = stored[i + 1] end
  local schema = texts.schema
  if schema and (number(schema) or 0) > SCHEMA then
    bad_record('schema ' .. schema .. ' is newer than ' .. SCHEMA .. ', the newest that this version reads')
  end
  return texts
end

-- The record in such an array. Its fields become those of `health`, and the script's own notes stand beside that, so
-- that no field that a hand added is taken for one. `stored` is the array, kept up to date. `loaded` has the values that
-- Redis has, at the places of the defaults in FIELDS; false where a field must yet be written.
local function record_of(stored, health)
  local loaded, tonumber = { unpack(FIELDS) }, tonumber
  for i = 1, #FIELDS, 3 do
    local field, kind = FIELDS[i], FIELDS[i + 1]
    local value = health[field]
    if value then
      if kind == 'number' or kind == 'number?' then
        local found = tonumber(value) -- as in `number`; this loop is most of what a script costs
        if not (found and found >= 0 and found <= LARGEST) then
          bad_record(field .. ' is no number from 0 up: ' .. value)
        end
        value, health[field] = found, found
      end
      loaded[i + 2] = value
    else
      value = FIELDS[i + 2]
      health[field] = value
      if kind == 'number' or kind == 'word' then -- a new record, one of an older version, or a hand took it away
        stored[#stored + 1], stored[#stored + 2] = field, text(value)
        loaded[i + 2] = false
      end
    end
  end
  if not STATES[health.circuit_state] then bad_record('circuit_state is no state: ' .. health.circuit_state) end
  health.schema = SCHEMA
  return { health = health, stored = stored, loaded = loaded, transitions = {} }
end

local function new_record() return record_of({}, {}) end

-- nil where Redis has no such record (never registered, or lost).
local function load(key)
  local stored = redis.call('HGETALL', key)
  local texts = texts_of(stored)
  return texts.circuit_state and record_of(stored, texts)
end

-- Puts a field into such an array; looked for from `place` on, as most stand in the order of FIELDS. Returns its place.
local function put(stored, field, value, place)
  while stored[place] and stored[place] ~= field do place = place + 2 end
  if not stored[place] then -- before `place`, or nowhere
    place = 1
    while stored[place] and stored[place] ~= field do place = place + 2 end
  end
  stored[place], stored[place + 1] = field, text(value)
  return place
end

-- The fields that changed, and the new version; nil where nothing did. `version`, the last of them, never falls, even
-- where Redis lost a newer one: it follows the clock.
local function changes(record, now_us)
  local health, stored, loaded, changed, place = record.health, record.stored, record.loaded, {}, 1
  for i = 1, #FIELDS, 3 do
    local field = FIELDS[i]
    if field == 'version' and #changed > 0 then health.version = math.max(health.version + 1, now_us) end
    if health[field] ~= loaded[i + 2] then
      place = put(stored, field, health[field], place)
      changed[#changed + 1], changed[#changed + 2] = field, stored[place + 1]
    end
  end
  return #changed > 0 and changed or nil
end

-- Which of two copies of one record wins, everywhere: the one of more transitions, then the later version. A copy that
-- never saw a result, of the same generation as one that did, was written anew after a loss: it loses.
local function supersedes(health, other)
  if health.generation ~= other.generation then return health.generation > other.generation end
  if (health.last_check_ms == 0) ~= (other.last_check_ms == 0) then return other.last_check_ms == 0 end
  return health.version > other.version
end
