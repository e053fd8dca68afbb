-- What operators say for a time. It lies over the record and changes nothing that the rules have there, so that when it
-- ends, what the rules say now counts at once. It is in force while Redis's clock is before its end.
--
-- `circuit/overrides.py` is its mirror in Python, function for function.

local FOR_EVER_MS = 253402300799000 -- as the end of an override that nobody bounded

local function override_of(health, now) return health.override_until_ms > now and health.override or '' end

local function weight_of(health, now)
  return health.weight_override_until_ms > now and health.weight_override or health.weight
end

-- May calls go there at all, as far as operators say?
local function is_in_service(health, now)
  local word = override_of(health, now)
  if health.unavailable_reason == 'operator' or word == 'drain' or word == 'force_open' then return false end
  return weight_of(health, now) > 0
end

-- For the log of events, as `commit` reads it.
local function say(record, event, from, to, until_ms, reason)
  record.said = record.said or {}
  record.said[#record.said + 1] =
    { event = event, details = { 'from', from, 'to', to, 'until_ms', until_ms, 'reason', reason } }
end

local function plain(weight) return string.format('%g', weight) end

local function end_state(record, reason)
  local health = record.health
  if health.override_until_ms == 0 then return end
  say(record, 'override', health.override, '', '0', reason)
  health.override, health.override_since_ms, health.override_until_ms = '', 0, 0
  health.override_by, health.override_reason = '', ''
end

local function end_weight(record, reason)
  local health = record.health
  if health.weight_override_until_ms == 0 then return end
  say(record, 'weight_override', plain(health.weight_override), plain(health.weight), '0', reason)
  health.weight_override, health.weight_override_since_ms, health.weight_override_until_ms = 0, 0, 0
  health.weight_override_by, health.weight_override_reason = '', ''
end

-- Takes away what is over.
local function lapse(record, now)
  local state_until, weight_until = record.health.override_until_ms, record.health.weight_override_until_ms
  if state_until > 0 and state_until <= now then end_state(record, 'expired') end
  if weight_until > 0 and weight_until <= now then end_weight(record, 'expired') end
end

-- An operator's word, or a worker's 'lapse'; `lasts_ms` 0 for ever. Who says the same again prolongs it.
local function override(record, word, lasts_ms, weight, by, reason, now)
  local health = record.health
  lapse(record, now)
  if word == 'lapse' then return end
  if word == 'end' then
    end_state(record, reason)
    end_weight(record, reason)
    return
  end
  local until_ms = lasts_ms > 0 and math.floor(now + lasts_ms) or FOR_EVER_MS
  local field, old, new = 'override', health.override, word
  if word == 'weight' then
    field, old, new = 'weight_override', plain(weight_of(health, now)), plain(weight)
  end
  local goes_on = health[field .. '_until_ms'] > 0 and (word == 'weight' or old == word)
  if not goes_on or health[field .. '_since_ms'] == 0 then health[field .. '_since_ms'] = now end
  health[field] = word == 'weight' and weight or word
  health[field .. '_until_ms'], health[field .. '_by'], health[field .. '_reason'] = until_ms, by, reason
  say(record, field, old, new, text(until_ms), reason)
end
