-- Folds a batch of outcomes into one provider's record and makes the transitions they cause.
--
-- KEYS[1]   health   the record
-- KEYS[2]   permits  half-open permits in flight
-- KEYS[3]   seq      the writer's last applied batch
-- KEYS[4]   events   the log of transitions
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       the replica, for the log
-- ARGV[4]   seq      number of this batch, rising for each writer
-- ARGV[5]   push     ms between pushes of mere averages
-- ARGV[6..] outcomes, those alike in a row together, four arguments each: success|failure|ignored, the generation in
--           which the calls began, their permit or '', their latencies in ms with blanks between
--
-- Returns {'ok'|'replayed'|'missing', transitions, applied, value, ...}; 'replayed' repeats what the first run
-- said, whose reply was lost; 'missing' applied nothing. A repeat may leave out outcomes that grew too old, from the
-- front: `applied` says how many were applied, the last ones.
-- Why one script: reading, folding, deciding and announcing must see one state, or two replicas trip the same circuit.

local now, now_us = clock(ARGV[1])
local seq = tonumber(ARGV[4])
local record = load(KEYS[1])
if not record then return reply('missing', '') end
local did, applied = replayed(KEYS[3], seq)
if did then return reply('replayed', did, record, applied) end

applied = 0
for i = 6, #ARGV, 4 do
  local outcome, generation, permit = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local success, counts = outcome == 'success', outcome ~= 'ignored'
  for latency_ms in string.gmatch(ARGV[i + 3], '%S+') do
    if counts then fold(record, success, tonumber(latency_ms), generation, now) end
    applied = applied + 1
  end
  if permit ~= '' then redis.call('ZREM', KEYS[2], permit) end
end
did = told(record.transitions)
applied = text(applied)
remember(KEYS[3], seq, applied, did)
commit({ health = KEYS[1], events = KEYS[4] }, ARGV[2], ARGV[3], record, now, now_us, nil, tonumber(ARGV[5]))
return reply('ok', did, record, applied)
