-- What a script leaves behind and tells: the note of a batch, the record, the log, the push, the reply.

local SEQ_TTL_MS = 3600000 -- how long a writer's last batch is remembered: longer than any retry of it
local EVENTS_KEPT = 1000

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

-- Announces the record as it is, without a change of its circuit.
local function push_averages(key, channel, by, record)
  redis.call('PUBLISH', channel, object({ 'event', 'averages', 'provider', provider_of(key), 'by', by,
    'health', record.stored }))
end

-- Saves, logs and announces what a script did, in that order. `action` names an operator's or worker's change.
-- Averages alone are pushed at most once in `push_interval` ms. `note` is of the batch: see `noted`.
local function commit(keys, channel, by, record, now, now_us, action, push_interval, note)
  local moved, last_push_ms = #record.transitions > 0 or action ~= nil, record.health.last_push_ms
  local push = moved or now - last_push_ms >= push_interval or now < last_push_ms
  if push then record.health.last_push_ms = now end
  write(keys.health, changes(record, now_us), note)
  if not push then return end
  local provider = provider_of(keys.health)
  for _, t in ipairs(record.transitions) do
    -- pcall: what is decided and saved stands, also where the log cannot be written
    redis.pcall('XADD', keys.events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', 'transition', 'from', t.from, 'to', t.to,
      'reason', t.reason, 'generation', t.generation, 'by', by)
    redis.call('PUBLISH', channel, object({ 'event', 'transition', 'provider', provider, 'from', t.from, 'to', t.to,
      'reason', t.reason, 'generation', t.generation, 'by', by, 'health', record.stored }))
  end
  if action then
    if action.event ~= 'cooling' then -- so many of them would push what matters out of the log
      redis.pcall('XADD', keys.events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', action.event, 'detail', action.detail,
        'by', by)
    end
    redis.call('PUBLISH', channel, object({ 'event', action.event, 'provider', provider, 'detail', action.detail,
      'by', by, 'health', record.stored }))
  elseif not moved then
    push_averages(keys.health, channel, by, record)
  end
end

-- What every script on a record answers: a status word, the transitions, how many outcomes were applied, and the
-- record's fields and values.
local function reply(status, transitions, record, applied)
  return { status, transitions, applied or '0', unpack(record and record.stored or {}) }
end
