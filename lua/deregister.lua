-- Takes a provider out of the fleet: its record and permits are deleted and every replica is told. Its log stays a week.
--
-- KEYS[1]   health   the record
-- KEYS[2]   permits  half-open permits in flight
-- KEYS[3]   events   the log of transitions
-- KEYS[4]   reporters  the replicas whose last word was a failure
-- KEYS[5]   in_flight  the calls that each replica has under way
-- ARGV[1]   channel  where changes are published
-- ARGV[2]   by       the replica, for the message and the log
--
-- Returns {'ok'|'missing', '', '0'}.
-- Why one script: no replica may see half a provider.

local existed = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2], KEYS[4], KEYS[5])
log(KEYS[3], ARGV[2], 'deregistered', { 'detail', '' })
redis.pcall('PEXPIRE', KEYS[3], WEEK_MS)
push(ARGV[1], KEYS[1], ARGV[2], 'deregistered', {})
return reply(existed == 1 and 'ok' or 'missing', '')
