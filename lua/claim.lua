-- Claims half-open permits, or renews those a replica holds.
--
-- KEYS[1]   health   the record
-- KEYS[2]   permits  half-open permits in flight: token -> expiry
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   ttl      ms until a permit that is neither renewed nor returned is free again
-- ARGV[3..] tokens
--
-- Returns {generation, token, ...}: the tokens that are held now.
-- Why one script: counting and adding in two steps would let two replicas take the last permit.
-- A token already in the set is renewed and counts as held, so a repeated call grants nothing twice. Permits outlive
-- the transitions of the circuit: as long as a call runs, it counts against the limit.

local now = clock(ARGV[1])
local record = load(KEYS[1])
if not record then return { '0' } end
local health = record.health
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
-- nobody asks for so long: Redis's clock was set back, and a dead replica's permits must not stay until it caught up
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. text(now + 10 * tonumber(ARGV[2])), '+inf')
local free = 0
if health.circuit_state == 'half_open' and is_in_service(health, now) and cooling_for_ms(health, now) == 0 then
  free = health.half_open_max_probes - redis.call('ZCARD', KEYS[2])
end
local expiry = text(now + tonumber(ARGV[2]))
local held = { text(health.generation) }
for i = 3, #ARGV do
  local known = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if known or free > 0 then
    if not known then free = free - 1 end
    redis.call('ZADD', KEYS[2], expiry, ARGV[i])
    held[#held + 1] = ARGV[i]
  end
end
return held
