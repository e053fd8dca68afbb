-- Lets a replica join a provider's record, which is never reset; writes one only where there is none, or an older one.
--
-- KEYS[1]   health   the record
-- KEYS[2]   events   the log of transitions
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       the replica, for the log
-- ARGV[4]   action   'registered' with a new provider's settings, 'restored' with a replica's copy of a lost record
-- ARGV[5..] field, field, value, ...
--
-- Returns {'created'|'joined', '', '0', field, value, ...}.
-- Why one script: of many replicas that start, or notice a loss, at once, one writes and the others join it.
-- A record that is older than a replica's copy is what a failover or restart left behind, and one of the same generation
-- that never saw a result was written after a loss: the copy wins.

local now, now_us = clock(ARGV[1])
local record = load(KEYS[1])
local copy = new_record()
for i = 5, #ARGV, 2 do copy[ARGV[i]] = parse(ARGV[i], ARGV[i + 1]) end
if record then
  local pristine = record.last_check_ms == 0 and copy.last_check_ms > 0
  local older = record.generation < copy.generation
    or (record.generation == copy.generation and (pristine or record.version < copy.version))
  if ARGV[4] ~= 'restored' or not older then return reply('joined', '', record) end
end
if not record then redis.call('DEL', KEYS[1]) -- remnants without a state
else -- what stands there counts as written: all that differs is put right
  copy.stored, copy.loaded, copy.version = record.stored, record.loaded, math.max(copy.version, record.version)
end
commit({ health = KEYS[1], events = KEYS[2] }, ARGV[2], ARGV[3], copy, now, now_us,
  { event = ARGV[4], detail = copy.circuit_state .. ' generation ' .. text(copy.generation) }, 0)
return reply('created', '', copy)
