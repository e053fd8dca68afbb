-- Says for a time what calls see of a provider, whatever the rules say; or ends that; or has the rules begin anew.
--
-- KEYS[1]   health   the record
-- KEYS[2]   events   the log of transitions and operator actions
-- KEYS[3]   reporters  with `min_reporters`: the replicas whose last word was a failure or slow -> when
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       who says so, for the record and the log
-- ARGV[4]   word     'drain', 'force_open', 'force_closed', 'observe', 'weight'; 'end', of all that is in force; or 'reset'
-- ARGV[5]   lasts    ms from now; 0 for ever
-- ARGV[6]   weight   with 'weight'
-- ARGV[7]   reason   for people
--
-- Returns {'ok'|'missing', '', '0', field, value, ...}.
-- Why one script: its end is counted on Redis's clock, and the log has what was in force before.

-- What calls taught, by the fields that hold it; the window goes with them. `circuit/resetting.py` has the same.
local LEARNED = {
  open_reason = true, last_failure = true, latency_ms = true, failure_rate = true, consecutive_failures = true,
  consecutive_successes = true, times_opened = true, open_timeout_factor = true, result_gap_ms = true,
  concurrency_limit = true, limit_growth = true, samples = true, usual_latency_ms = true, latency_deviation_ms = true,
  floor_latency_ms = true, near_latency_ms = true, near_load = true, longest_latency_ms = true, call_ms = true,
}

-- The circuit is closed, and nothing is known of the provider, as of one that was just registered. Settings, overrides,
-- `available=False` and a rate limit stay.
local function reset(record, reason, now)
  local health, from = record.health, record.health.circuit_state
  lapse(record, now)
  if from ~= 'closed' then transition(record, 'closed', 'reset', now) end
  forget_window(record)
  for i = 1, #FIELDS, 3 do
    if LEARNED[FIELDS[i]] then health[FIELDS[i]] = FIELDS[i + 2] end
  end
  health.last_check_ms = now -- 0 would tell of a record that was written anew after a loss
  record.said = record.said or {}
  record.said[#record.said + 1] = { event = 'reset', details = { 'from', from, 'to', 'closed', 'reason', reason } }
end

local now, now_us = clock(ARGV[1])
local record = load(KEYS[1])
if not record then return reply('missing', '') end
if ARGV[4] == 'reset' then
  reset(record, ARGV[7], now)
  redis.call('DEL', KEYS[3])
else
  override(record, ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[3], ARGV[7], now)
end
commit({ health = KEYS[1], events = KEYS[2] }, ARGV[2], ARGV[3], record, now, now_us, nil, 1000)
return reply('ok', '', record)
