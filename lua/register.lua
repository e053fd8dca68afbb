-- Lets a replica join a provider's record, which is never reset; writes one only where there is none, or an older one.
--
-- KEYS[1]   health   the record
-- KEYS[2]   events   the log of transitions
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       the replica, for the log
-- ARGV[4]   action   'registered' with a new provider's settings, 'restored' with a replica's copy of a lost record
-- ARGV[5]   fingerprint  of a new provider's settings
-- ARGV[6..] field, field, value, ...
--
-- Returns {'created'|'joined'|'updated'|'declined', '', '0', field, value, ...}. Settings of a higher circuit_version
-- than the record's are taken ('updated', without the weight). Others are not: whoever comes with them first is told so
-- ('declined'), one replica for the whole fleet.
-- Why one script: of many replicas that start, or notice a loss, at once, one writes and the others join it.
-- A record that a replica's copy supersedes is what a failover or restart left behind, or was written after a loss.

local now, now_us = clock(ARGV[1])
local keys = { health = KEYS[1], events = KEYS[2] }
local record, copy, given = load(KEYS[1]), new_record(), { unpack(ARGV, 6) }
local said = record_of(given, texts_of(given)).health
for i = 6, #ARGV, 2 do copy.health[ARGV[i]] = said[ARGV[i]] end

local function join()
  local ours, theirs, details = record.health, copy.health, {}
  local newer = theirs.circuit_version > ours.circuit_version
  local taken = { circuit_version = theirs.circuit_version }
  for i = 6, #ARGV, 2 do
    local field = ARGV[i]
    local of_a_record = string.find(field, '^override') or field == 'generation' or field == 'circuit_version' or (newer and field == 'weight')
    if not of_a_record and ours[field] ~= theirs[field] then
      taken[field] = theirs[field]
      details[#details + 1] = field .. ' ' .. text(ours[field]) .. '>' .. text(theirs[field])
    end
  end
  local event = newer and 'updated' or 'declined'
  if not newer then
    local settled = theirs.circuit_version < ours.circuit_version or ours.declined_settings == ARGV[5]
    if #details == 0 or settled then return reply('joined', '', record) end
    taken = { declined_settings = ARGV[5] }
  end
  for field, value in pairs(taken) do ours[field] = value end
  local action = { event = event, detail = table.concat(details, ' ') }
  commit(keys, ARGV[2], ARGV[3], record, now, now_us, action, 0)
  return reply(event, '', record)
end

if record then
  if ARGV[4] ~= 'restored' then return join() end
  if not supersedes(copy.health, record.health) then return reply('joined', '', record) end
  -- what stands there counts as written: all that differs is put right
  copy.stored, copy.loaded = record.stored, record.loaded
  copy.health.version = math.max(copy.health.version, record.health.version)
else
  redis.call('DEL', KEYS[1]) -- remnants without a state
  redis.pcall('PERSIST', KEYS[2]) -- the log of a provider that was deregistered, and is back
end
if copy.health.override ~= '' and copy.health.override_since_ms == 0 then copy.health.override_since_ms = now end
local detail = copy.health.circuit_state .. ' generation ' .. text(copy.health.generation)
commit(keys, ARGV[2], ARGV[3], copy, now, now_us, { event = ARGV[4], detail = detail }, 0)
return reply('created', '', copy)
