"""The scripts as the soak runs them: they note each batch that is applied, and may have a bug put in on purpose."""

from collections.abc import Callable

from redis_router.store import scripts

MUTATIONS = {
    "none": ("", "", ""),
    "sequence": ("record", "if did then", "if false then"),
    "generation": (
        "record",
        "if generation ~= health.generation or state == 'open' then return end",
        "if state == 'open' then return end",
    ),
    "limit": ("claim", "if known or free > 0 then", "if known or health.circuit_state == 'half_open' then"),
    "remember": (
        "record",
        "if note then redis.call('SET', note.key, note.before or '', 'PX', SEQ_TTL_MS) end\n  redis.call",
        "redis.call",
    ),
}
"""Bugs put in on purpose: script, what to replace, by what. `remember` believes what is remembered of a batch whose
write was refused after it had been remembered."""

NOTING = """
-- the soak's: each batch of `record` is noted in the step that writes it: its number, how many outcomes, whose, when
local noted, real = false, redis
local function to_ledger()
  if noted then return end
  noted = true
  local outcomes = 0
  for i = 14, #ARGV, 4 do
    for _ in string.gmatch(ARGV[i], '%S+') do outcomes = outcomes + 1 end
  end
  local time = real.call('TIME')
  local at = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1000000)
  real.call('RPUSH', KEYS[1] .. ':ledger', ARGV[4] .. ' ' .. outcomes .. ' ' .. KEYS[3] .. ' ' .. at)
end
local redis = setmetatable({
  call = function(...)
    local said = real.call(...)
    local command, key = ...
    if command == 'HSET' and key == KEYS[1] then to_ledger() end
    return said
  end,
  pcall = function(...)
    local said = real.pcall(...)
    local command, key = ...
    if command == 'HSET' and key == KEYS[1] and type(said) ~= 'table' then to_ledger() end
    return said
  end,
}, { __index = real })
"""
END = "return reply('ok', did"


def broken_text(name: str, text: str, mutation: str) -> str:
    """The script's text with the bug in it; where the bug does not fit any more it says so."""
    target, old, new = MUTATIONS[mutation]
    if name != target:
        return text
    if old not in text:
        raise SystemExit(f"the mutation {mutation!r} no longer fits {target}.lua: adapt MUTATIONS in {__file__}")
    return text.replace(old, new)


def noted_text(text: str) -> str:
    """record.lua with its ledger: also where a batch changes nothing in the record."""
    assert END in text, "record.lua ends otherwise now: adapt END"
    return NOTING + text.replace(END, f"to_ledger()\n{END}")


def use(mutation: str) -> None:
    """From here on this process runs such scripts."""
    load: Callable[[str], scripts.Script] = scripts.load.__wrapped__

    def changed(name: str) -> scripts.Script:
        text = broken_text(name, load(name).text, mutation)
        if name == "record":
            text = noted_text(text)
        return scripts.Script(name, text, scripts.sha_of(text))

    cache = {path.stem: changed(path.stem) for path in scripts.folder().glob("[a-z]*.lua")}
    scripts.load = cache.__getitem__  # type: ignore[assignment]
