-- Takes the worker lease when it is free, or renews it.
--
-- KEYS[1]   leader   who leads, and until when
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   worker   the candidate's name, for people
-- ARGV[4]   session  the candidate's process: two workers of one name are two
-- ARGV[5]   lease    ms that the lease lasts from now
-- ARGV[6]   seen     the highest epoch the candidate met in a record; a new term's epoch is above it
--
-- Returns {'elected'|'renewed'|'standby', worker, epoch, since_ms, until_ms, remaining_ms} of whoever leads now.
-- Why one script: compare and set. The epoch follows the clock, so a failover that lost writes cannot issue one again.

local now = clock(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'worker', 'epoch', 'since_ms', 'until_ms', 'session', 'lease_ms')
-- what no worker wrote is no lease
local worker, epoch, since, until_ms = held[1] or '', number(held[2]) or 0, number(held[3]) or 0, number(held[4]) or 0
local status, ours = 'standby', held[5] == ARGV[4]
-- no lease lasts so long: Redis's clock was set back, and a dead leader must not stay until it caught up
local set_back = until_ms - now > 2 * (number(held[6]) or 0)
if until_ms <= now or (set_back and not ours) then
  status, worker, epoch, since = 'elected', ARGV[3], math.max(epoch + 1, tonumber(ARGV[6]) + 1, now), now
elseif ours then
  status = 'renewed'
end
if status ~= 'standby' then
  until_ms = now + tonumber(ARGV[5])
  redis.call('HSET', KEYS[1], 'worker', worker, 'epoch', text(epoch), 'since_ms', text(since), 'until_ms', text(until_ms),
    'session', ARGV[4], 'lease_ms', ARGV[5])
end
if status == 'elected' then
  redis.call('PUBLISH', ARGV[2], object({ 'event', 'elected', 'worker', worker, 'epoch', text(epoch) }))
end
return { status, worker, text(epoch), text(since), text(until_ms), text(until_ms - now) }
