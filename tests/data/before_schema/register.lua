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
-- A record that is older than a replica's copy is what a failover or restart left behind, and one of the same generation
-- that never saw a result was written after a loss: the copy wins.

local now, now_us = clock(ARGV[1])
local keys = { health = KEYS[1], events = KEYS[2] }
local record = load(KEYS[1])
local copy = new_record()
for i = 6, #ARGV, 2 do copy[ARGV[i]] = parse(ARGV[i], ARGV[i + 1]) end

local function join()
  local newer, differing, details = copy.circuit_version > record.circuit_version, {}, {}
  for i = 6, #ARGV, 2 do
    local field = ARGV[i]
    local of_a_record = field == 'generation' or field == 'circuit_version' or (newer and field == 'weight')
    if not of_a_record and record[field] ~= copy[field] then
      differing[#differing + 1] = field
      details[#details + 1] = field .. ' ' .. text(record[field]) .. '>' .. text(copy[field])
    end
  end
  local detail = table.concat(details, ' ')
  if newer then
    for _, field in ipairs(differing) do record[field] = copy[field] end
    record.circuit_version = copy.circuit_version
    commit(keys, ARGV[2], ARGV[3], record, now, now_us, { event = 'updated', detail = detail }, 0)
    return reply('updated', '', record)
  end
  if #differing == 0 or copy.circuit_version < record.circuit_version or record.declined_settings == ARGV[5] then
    return reply('joined', '', record)
  end
  record.declined_settings = ARGV[5]
  commit(keys, ARGV[2], ARGV[3], record, now, now_us, { event = 'declined', detail = detail }, 0)
  return reply('declined', '', record)
end

if record then
  if ARGV[4] ~= 'restored' then return join() end
  local pristine = record.last_check_ms == 0 and copy.last_check_ms > 0
  local older = record.generation < copy.generation
    or (record.generation == copy.generation and (pristine or record.version < copy.version))
  if not older then return reply('joined', '', record) end
  -- what stands there counts as written: all that differs is put right
  copy.stored, copy.loaded, copy.version = record.stored, record.loaded, math.max(copy.version, record.version)
else
  redis.call('DEL', KEYS[1]) -- remnants without a state
  redis.pcall('PERSIST', KEYS[2]) -- the log of a provider that was deregistered, and is back
end
commit(keys, ARGV[2], ARGV[3], copy, now, now_us,
  { event = ARGV[4], detail = copy.circuit_state .. ' generation ' .. text(copy.generation) }, 0)
return reply('created', '', copy)
