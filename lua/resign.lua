-- Gives the worker lease back at once, so that a standby need not wait for its end.
--
-- KEYS[1]   leader   who leads, and until when
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   worker   the leader's name, for the message
-- ARGV[4]   epoch    the term it gives up
--
-- Returns 1, or 0 when it no longer led.
-- Why one script: compare and set; a late resignation must not end a successor's term.

local now = clock(ARGV[1])
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[4] then return 0 end -- an epoch is one worker's alone
redis.call('HSET', KEYS[1], 'until_ms', text(now))
redis.call('PUBLISH', ARGV[2], object({ 'event', 'resigned', 'worker', ARGV[3], 'epoch', ARGV[4] }))
return 1
