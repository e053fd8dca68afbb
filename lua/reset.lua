-- Closes a circuit, and forgets what calls taught of its provider, as of one that was just registered.
--
-- KEYS[1]   health   the record
-- KEYS[2]   events   the log of transitions and operator actions
-- KEYS[3]   reporters  with `min_reporters`: the replicas whose last word was a failure or slow -> when
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       who asks for it, for the log
-- ARGV[4]   reason   for people
--
-- Returns {'ok'|'missing', '', '0', field, value, ...}.
-- Why one script: a result that comes in between must not be half forgotten.
--
-- Settings, overrides, what an operator or a probe said of it, and a rate limit stay. `circuit/resetting.py` is the
-- mirror in Python.

-- What calls taught, by the fields that hold it; the window goes with them.
local LEARNED = {
  open_reason = true, last_failure = true, latency_ms = true, failure_rate = true, consecutive_failures = true,
  consecutive_successes = true, times_opened = true, open_timeout_factor = true, result_gap_ms = true,
  answers_per_s = true, calls_per_s = true, paced_until_ms = true, concurrency_limit = true, limit_growth = true, samples = true, usual_latency_ms = true,
  latency_deviation_ms = true, floor_latency_ms = true, near_latency_ms = true, near_load = true,
  longest_latency_ms = true, call_ms = true,
}

local now, now_us = clock(ARGV[1])
local record = load(KEYS[1])
if not record then return reply('missing', '') end
local health, from = record.health, record.health.circuit_state
lapse(record, now)
if from == 'closed' then
  health.generation = health.generation + 1 -- calls under way are of what was, and so is what a replica decided alone
else
  transition(record, 'closed', 'reset', now)
end
forget_window(record)
for i = 1, #FIELDS, 3 do
  if LEARNED[FIELDS[i]] then health[FIELDS[i]] = FIELDS[i + 2] end
end
health.last_check_ms = now -- 0 would tell of a record that was written anew after a loss
record.said = record.said or {}
record.said[#record.said + 1] = { event = 'reset', details = { 'from', from, 'to', 'closed', 'reason', ARGV[4] } }
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '+inf') -- an operator's user may delete no key
commit({ health = KEYS[1], events = KEYS[2] }, ARGV[2], ARGV[3], record, now, now_us, nil, 1000)
return reply('ok', '', record)
