-- What a script leaves behind and tells: the note of a batch, the record, the log, the push, the reply.

local SEQ_TTL_MS = 3600000 -- how long a writer's last batch is remembered: longer than any retry of it
local EVENTS_KEPT = 1000
local COOLING_LOGGED_EVERY_MS = 600000 -- so many cooldowns would push what matters out of the log

-- Exactly once: a note of this writer's last batch, with what it did and how many outcomes it had.
local function noted(key) return { key = key, before = redis.call('GET', key) } end

-- What batch `seq` did when it was applied, and how many outcomes it had; nil when it was not applied yet.
local function replayed(note, seq)
  note.seq = seq
  local last, applied, did = string.match(note.before or '', '^(%d+) (%d+) (.*)$')
  if not last or tonumber(last) < seq then return nil end
  if tonumber(last) == seq then return did, applied end
  return '', '0'
end

-- Writes the record and the note, or neither. A script is not rolled back: where the record's write is refused, as when
-- a right was revoked, the note is put back, or what was never written would count as applied.
local function write(key, changed, note)
  if note then
    local text_of_note = text(note.seq) .. ' ' .. note.applied .. ' ' .. note.did
    redis.call('SET', note.key, text_of_note, 'PX', SEQ_TTL_MS)
  end
  local done = changed and redis.pcall('HSET', key, unpack(changed))
  if type(done) ~= 'table' or not done.err then return end
  if note then redis.call('SET', note.key, note.before or '', 'PX', SEQ_TTL_MS) end
  redis.call('HSET', key, unpack(changed)) -- once more, for its error
end

-- Transitions as one word-list a transition, for the reply and for `replayed`.
local function told(transitions)
  local lines = {}
  for i, t in ipairs(transitions) do
    lines[i] = t.from .. ' ' .. t.to .. ' ' .. t.reason .. ' ' .. t.generation
  end
  return table.concat(lines, ';')
end

-- JSON with its members in the order given: {name, value, ...}, for people who SUBSCRIBE.
local function object(members)
  local parts = {}
  for i = 1, #members, 2 do
    local value = members[i + 1]
    if type(value) == 'table' then value = object(value) else value = cjson.encode(value) end
    parts[#parts + 1] = cjson.encode(members[i]) .. ':' .. value
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function provider_of(key) return string.match(key, '{(.-)}') end

-- Tells who listens of an event: its details in this order, and the record as it is.
local function push(channel, key, by, event, details, record)
  local members = { 'event', event, 'provider', provider_of(key), unpack(details) }
  for _, part in ipairs({ 'by', by, record and 'health', record and record.stored }) do members[#members + 1] = part end
  redis.call('PUBLISH', channel, object(members))
end

-- Into the provider's log. pcall: what is decided and saved stands, also where the log cannot be written.
local function log(key, by, event, details)
  local entry = { 'event', event, unpack(details) }
  entry[#entry + 1], entry[#entry + 2] = 'by', by
  redis.pcall('XADD', key, 'MAXLEN', '~', EVENTS_KEPT, '*', unpack(entry))
end

-- Saves, logs and announces what a script did, in that order. `action` names an operator's or worker's change.
-- Averages alone are pushed at most once in `push_interval` ms. `note` is of the batch: see `noted`.
local function commit(keys, channel, by, record, now, now_us, action, push_interval, note)
  local said, last_push_ms = record.said or {}, record.health.last_push_ms
  local moved = #record.transitions > 0 or #said > 0 or action ~= nil
  local pushes = moved or now - last_push_ms >= push_interval or now < last_push_ms
  if pushes then record.health.last_push_ms = now end
  write(keys.health, changes(record, now_us), note)
  if not pushes then return end
  for _, t in ipairs(record.transitions) do
    local details = { 'from', t.from, 'to', t.to, 'reason', t.reason, 'generation', t.generation }
    log(keys.events, by, 'transition', details)
    push(channel, keys.health, by, 'transition', details, record)
  end
  for _, each in ipairs(said) do
    log(keys.events, by, each.event, each.details)
    push(channel, keys.health, by, each.event, each.details, record)
  end
  if action then
    local details = { 'detail', action.detail }
    if action.reason and action.reason ~= '' then details[3], details[4] = 'reason', action.reason end
    if not action.is_quiet then log(keys.events, by, action.event, details) end
    push(channel, keys.health, by, action.event, details, record)
  elseif not moved then
    push(channel, keys.health, by, 'averages', {}, record)
  end
end

-- What every script on a record answers: a status word, the transitions, how many outcomes were applied, and the
-- record's fields and values.
local function reply(status, transitions, record, applied)
  return { status, transitions, applied or '0', unpack(record and record.stored or {}) }
end
