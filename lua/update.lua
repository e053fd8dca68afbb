-- Changes settings of a record from outside the calls: availability, weight, thresholds.
--
-- KEYS[1]   health   the record
-- KEYS[2]   events   the log of transitions
-- ARGV[1]   now      '' for Redis's clock, or a test's own ms
-- ARGV[2]   channel  where changes are published
-- ARGV[3]   by       the worker, replica or operator, for the log
-- ARGV[4]   epoch    the leader's epoch, or 0 for an operator
-- ARGV[5]   source   'operator' or 'probe': who says whether the provider is available
-- ARGV[6]   reason   an operator's, for people; or ''
-- ARGV[7..] field, field, value, ...
--
-- Returns {'ok'|'fenced'|'missing', '', '0', field, value, ...}.
-- Why one script: a probe must not undo what an operator or the circuit decided a moment ago.

local now, now_us = clock(ARGV[1])
local epoch, source = tonumber(ARGV[4]), ARGV[5]
local record = load(KEYS[1])
if not record then return reply('missing', '') end
local health, changed, given = record.health, {}, { unpack(ARGV, 7) }
if epoch > 0 and epoch < health.leader_epoch then return reply('fenced', '', record) end

lapse(record, now)

local function set(field, value)
  if health[field] ~= value then
    changed[#changed + 1] = field .. ' ' .. text(health[field]) .. '>' .. text(value)
    health[field] = value
  end
end

local said = record_of(given, texts_of(given)).health
for i = 7, #ARGV, 2 do
  local field, value = ARGV[i], said[ARGV[i]]
  if field ~= 'available' then
    set(field, value)
  else
    health.last_check_ms = now
    local may = source == 'operator'
      or (value == 0 and health.available == 1)
      or (value == 1 and health.unavailable_reason == 'probe')
    if may then
      set('available', value)
      set('unavailable_reason', value == 1 and '' or source)
      if value == 1 and source == 'operator' then -- back in service means now
        set('cooldown_until_ms', 0)
        health.calls_per_s = 0
        if health.override == 'drain' or health.override == 'force_open' then end_state(record, 'available=1') end
      end
    end
  end
end
health.leader_epoch = math.max(health.leader_epoch, epoch)
local action = #changed > 0 and { event = 'updated', detail = table.concat(changed, ' '), reason = ARGV[6] } or nil
commit({ health = KEYS[1], events = KEYS[2] }, ARGV[2], ARGV[3], record, now, now_us, action, 1000)
return reply('ok', '', record)
