-- Reads who leads, by Redis's clock.
--
-- KEYS[1]   leader   who leads, and until when
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
--
-- Returns {now, worker, epoch, since_ms, until_ms, remaining_ms}; worker '' where nobody ever led.
-- Why one script: the lease means nothing without the clock it was written by.

local now = clock(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'worker', 'epoch', 'since_ms', 'until_ms')
return { text(now), held[1] or '', held[2] or '0', held[3] or '0', held[4] or '0', text(tonumber(held[4] or 0) - now) }
