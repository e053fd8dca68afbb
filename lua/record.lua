-- Folds a batch of outcomes into one provider's record and makes the transitions they cause.
--
-- KEYS[1]   health   the record
-- KEYS[2]   permits  half-open permits in flight
-- KEYS[3]   seq      the writer's last applied batch
-- KEYS[4]   events   the log of transitions
-- KEYS[5]   reporters  with `min_reporters`: the replicas whose last word was a failure or slow -> when
-- KEYS[6]   in_flight  the calls that each replica has under way
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       the replica, for the log
-- ARGV[4]   seq      number of this batch, rising for each writer
-- ARGV[5]   push     ms between pushes of mere averages
-- ARGV[6]   jitter   a random number from 0 to 1, for the time a circuit stays open: scripts have no chance of their own
-- ARGV[7]   reporter the replica's session
-- ARGV[8]   calls      that the replica has under way there now; -1: it leaves
-- ARGV[9]   overdue    so many of them wait for longer than chance explains
-- ARGV[10]  answering  of so many the answer has begun
-- ARGV[11..] outcomes, those alike in a row together, four arguments each: success|failure|rate_limited|ignored|begun|paced,
--           after a failure a colon and why it failed; the generation in which the calls began, their permit or '', and
--           for each, with blanks between, its latency in ms, of rate_limited and paced how many ms to wait; after a colon the
--           load when it began, then how many ms the whole call took, and how many to wait after it, where these are known
--
-- Returns {'ok'|'replayed'|'missing', transitions, applied, field, value, ...}; 'replayed' repeats what the first run
-- said, whose reply was lost; 'missing' applied nothing. A repeat may leave out outcomes that grew too old, from the
-- front: `applied` says how many were applied, the last ones.
-- Why one script: reading, folding, deciding and announcing must see one state, or two replicas trip the same circuit.

local now, now_us = clock(ARGV[1])
local seq = tonumber(ARGV[4])
local record = load(KEYS[1])
if not record then return reply('missing', '') end
local note = noted(KEYS[3])
local did, applied = replayed(note, seq)
if did then
  push(ARGV[2], KEYS[1], ARGV[3], 'averages', {}, record) -- the first run may have been refused this
  return reply('replayed', did, record, applied)
end

local health = record.health
say_in_flight(health, KEYS[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), now)
record.jitter = tonumber(ARGV[6])
local asks_others, word = health.min_reporters > 1, nil
if asks_others then
  -- a word counts for longer than the replica whose view is open stays away; not one of a clock that was set back
  local kept = math.max(60000, health.window_ms, 2 * math.max(health.open_timeout_ms, health.open_timeout_max_ms))
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', '(' .. text(now - kept))
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '(' .. text(now + CLOCK_SKEW_MS), '+inf')
  record.others = redis.call('ZCARD', KEYS[5]) - (redis.call('ZSCORE', KEYS[5], ARGV[7]) and 1 or 0)
  record.callers_key = KEYS[6]
end
local cooling = cooling_for_ms(health, now)

applied = 0
for i = 11, #ARGV, 4 do
  local outcome, why = string.match(ARGV[i], '^([^:]*):?(.*)$')
  local generation, permit, success = tonumber(ARGV[i + 1]), ARGV[i + 2], outcome == 'success'
  for number, load, duration, wait in string.gmatch(ARGV[i + 3], '([^:%s]+):?([^:%s]*):?([^:%s]*):?(%S*)') do
    local at_load = tonumber(load) or 0
    if outcome == 'failure' and is_overload(health, why, at_load, now) then
      overload(health, now)
    elseif success or outcome == 'failure' then
      local ms = tonumber(number)
      if asks_others then
        local says = complains(health, success, ms, generation)
        if says ~= nil then word = says end
      end
      fold(record, success, ms, generation, why, now, at_load, tonumber(duration) or 0)
      if success and wait ~= '' then cool_down(health, tonumber(wait), now) end
    elseif outcome == 'rate_limited' then
      keep_rate(health, at_load, tonumber(number), now)
      cool_down(health, tonumber(number), now)
    elseif outcome == 'paced' then
      keep_pace(health, tonumber(number), now)
    elseif outcome == 'begun' then
      see_answer(health, true, health.failure_rate)
      if tonumber(number) > 0 then learn(health, tonumber(number), at_load, now) end
    end
    applied = applied + 1
  end
  if permit ~= '' then redis.call('ZREM', KEYS[2], permit) end
end
if asks_others then
  if #record.transitions > 0 then redis.call('DEL', KEYS[5])
  elseif word then redis.call('ZADD', KEYS[5], text(now), ARGV[7])
  elseif word == false then redis.call('ZREM', KEYS[5], ARGV[7]) end
end
keep_window(record)
lapse(record, now)
did = told(record.transitions)
applied = text(applied)
note.applied, note.did = applied, did
local more, news = cooling_for_ms(health, now) - cooling, nil
-- told at once where it is news; of many calls that were under way, each says a few ms more
if more > 0 and (cooling == 0 or more >= 1000) then
  news = { event = 'cooling', detail = text(health.cooldown_until_ms - now) .. ' ms' }
  news.is_quiet = math.abs(now - health.cooling_logged_ms) < COOLING_LOGGED_EVERY_MS and health.cooling_logged_ms > 0
  if not news.is_quiet then health.cooling_logged_ms = now end
end
commit({ health = KEYS[1], events = KEYS[4] }, ARGV[2], ARGV[3], record, now, now_us, news, tonumber(ARGV[5]), note)
return reply('ok', did, record, applied)
