-- A process says that it is there, or that it leaves; those that said nothing for long are taken out.
--
-- KEYS[1]   replicas  session -> when it spoke last, and what it said
-- ARGV[1]   now       '' for Redis's clock, or a test's own ms
-- ARGV[2]   session   the process
-- ARGV[3]   said      what it says of itself; '' where it leaves
-- ARGV[4]   kept      ms for which its word is kept
--
-- Returns how many were taken out.
-- Why one script: who is here is told by Redis's clock, and who dies takes nothing out: those who live do.

local now, kept = clock(ARGV[1]), tonumber(ARGV[4])
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], text(now) .. ' ' .. ARGV[3])
  redis.call('PEXPIRE', KEYS[1], text(kept)) -- the last one of all takes everything with it
end
local looked = number(redis.call('HGET', KEYS[1], '')) -- under the empty name: when all were looked at
if not looked and ARGV[3] == '' then return 0 end
if looked and math.abs(now - looked) < kept / 10 then return 0 end
local all, gone = redis.call('HGETALL', KEYS[1]), 0
for i = 1, #all, 2 do
  local at = number(string.match(all[i + 1], '^(%d+) '))
  if all[i] ~= '' and (not at or math.abs(now - at) > kept) then -- far ahead: the clock was set back
    gone = gone + redis.call('HDEL', KEYS[1], all[i])
  end
end
redis.call('HSET', KEYS[1], '', text(now))
return gone
