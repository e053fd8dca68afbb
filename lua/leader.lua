-- Reads who leads, by Redis's clock.
--
-- KEYS[1]   leader   who leads, and until when
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
--
-- Returns {now, worker, epoch, since_ms, until_ms, remaining_ms}; worker '' where nobody ever led.
-- Why one script: the lease means nothing without the clock it was written by.

local now = clock(ARGV[1])
local held = redis.pcall('HMGET', KEYS[1], 'worker', 'epoch', 'since_ms', 'until_ms')
if held.err then
  if not string.find(held.err, 'WRONGTYPE', 1, true) then return held end
  held = {} -- nobody leads by a key of another type; who campaigns says so
end
local epoch, since, until_ms = number(held[2]) or 0, number(held[3]) or 0, number(held[4]) or 0
return { text(now), held[1] or '', text(epoch), text(since), text(until_ms), text(until_ms - now) }
