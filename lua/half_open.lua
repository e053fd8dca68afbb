-- Moves an open circuit to half-open once its open_timeout_ms has passed.
--
-- KEYS[1]   health   the record
-- KEYS[2]   seq      the caller's last applied transition
-- KEYS[3]   events   the log of transitions
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       the worker or replica, for the log
-- ARGV[4]   seq      number of this call, rising for each caller
-- ARGV[5]   epoch    the leader's epoch, or 0 for a replica that acts because no worker does
--
-- Returns {'ok'|'replayed'|'not_due'|'fenced'|'missing', transitions, '0', field, value, ...}.
-- Why one script: state and elapsed time are checked here, on Redis's clock, so even two leaders do no harm.

local now, now_us = clock(ARGV[1])
local seq, epoch = tonumber(ARGV[4]), tonumber(ARGV[5])
local record = load(KEYS[1])
if not record then return reply('missing', '') end
local note = noted(KEYS[2])
local did = replayed(note, seq)
if did then return reply('replayed', did, record) end
if epoch > 0 and epoch < record.health.leader_epoch then return reply('fenced', '', record) end
half_open(record, now)
if #record.transitions == 0 then return reply('not_due', '', record) end
lapse(record, now)
record.health.leader_epoch = math.max(record.health.leader_epoch, epoch)
did = told(record.transitions)
note.applied, note.did = '0', did
commit({ health = KEYS[1], events = KEYS[3] }, ARGV[2], ARGV[3], record, now, now_us, nil, 0, note)
return reply('ok', did, record)
