-- Says for a time what calls see of a provider, whatever the rules say; or ends that, or what is over by itself.
--
-- KEYS[1]   health   the record
-- KEYS[2]   events   the log of transitions and operator actions
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       who says so, for the record and the log
-- ARGV[4]   word     'drain', 'force_open', 'force_closed', 'observe', 'weight'; or 'end', of all that is in force;
--                    or 'lapse', of what is over: a worker says that at the moment when it ends
-- ARGV[5]   lasts    ms from now; 0 for ever
-- ARGV[6]   weight   with 'weight'
-- ARGV[7]   reason   for people
--
-- Returns {'ok'|'missing', '', '0', field, value, ...}.
-- Why one script: its end is counted on Redis's clock, and the log has what was in force before.

local now, now_us = clock(ARGV[1])
local record = load(KEYS[1])
if not record then return reply('missing', '') end
override(record, ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[3], ARGV[7], now)
commit({ health = KEYS[1], events = KEYS[2] }, ARGV[2], ARGV[3], record, now, now_us, nil, 1000)
return reply('ok', '', record)
