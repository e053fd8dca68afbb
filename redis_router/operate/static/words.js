// What the page says, in the words of `redis-router`: texts alone, no elements.

const state = { offset: 0 };

/** Redis's clock now, ms since the epoch. */
export const redisNow = () => state.offset + performance.now();

/** It was at `now_ms` when this page's own clock was at `here_ms`. */
export function setClock(now_ms, here_ms) { state.offset = now_ms - here_ms; }

/** As `redis-router status` has it: 12 s, 3 min, 5 h, 2 d. */
export function lasted(ms) {
  for (const [unit, size] of [["d", 86400000], ["h", 3600000], ["min", 60000]]) {
    if (ms >= 2 * size) return `${Math.round(ms / size)}\u00a0${unit}`;
  }
  return `${Math.max(0, Math.round(ms / 1000))}\u00a0s`;
}

/** How long ago; "-" for never. */
export const ago = (moment) => (moment ? lasted(redisNow() - moment) : "-");

export const clockTime = (ms) => new Date(ms).toLocaleString(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
});

/** When a reason ends, counting down. */
export function untilText(reason, facts) {
  if (reason.what === "circuit") {
    if (facts.next_try === "after_probe") return "next try after the probe";
    if (facts.next_try === "now" || reason.until_ms === null) return "";
    const left = reason.until_ms - redisNow();
    return left > 0 ? `next try in ${lasted(left)}` : "next try is due";
  }
  if (reason.until_ms !== null) {
    const left = reason.until_ms - redisNow();
    return left > 0 ? `${lasted(left)} left` : "ending";
  }
  return reason.what === "override" || (reason.what === "weight" && facts.weight_override) ? "for ever" : "";
}

export const callsText = (facts) => {
  const limit = facts.concurrency_limit ? ` of ${facts.concurrency_limit}` : "";
  return `${facts.in_flight}${limit}`;
};

export const latencyText = (facts) => (facts.latency_ms === null ? "–" : `${Math.round(facts.latency_ms)}\u00a0ms`);

export const failuresText = (facts) => `${(100 * facts.failure_rate).toFixed(facts.failure_rate < 0.1 ? 1 : 0)}%`;

export const weightText = (facts) => String(Number(facts.weight.toPrecision(3)));

export function circuitText(facts) {
  const since = facts.circuit !== "closed" && facts.since_ms ? ` for ${ago(facts.since_ms)}` : "";
  return `circuit ${facts.circuit.replace("_", "-")}${since}`;
}

/** Which fields changed: "available 1>0 unavailable_reason >probe" is told as "out of service, probe". */
function fieldsText(detail) {
  const fields = new Map([...detail.matchAll(/(?:^| )(\w+) (\S*)>(\S*)/g)].map((found) => [found[1], found.slice(2)]));
  const [, by] = fields.get("unavailable_reason") || [];
  fields.delete("unavailable_reason");
  const said = [...fields].map(([name, [old, now]]) =>
    name === "available" ? (now === "1" ? "back in service" : `out of service, ${by || "somebody"}`) :
    name === "cooldown_until_ms" && now === "0" ? "rate limit ended" : `${name} ${old || "none"} → ${now || "none"}`);
  return said.join(", ") || `updated ${detail}`.trim();
}

/** An entry of the log, in a sentence. */
export function eventText(event) {
  const { from, to, reason, until_ms: until, detail, ...rest } = event.details;
  const why = reason ? `: ${reason}` : "";
  const ends = Number(until) > 0 && to ? (Number(until) > 2e14 ? ", for ever" : `, until ${clockTime(Number(until))}`) : "";
  switch (event.event) {
    case "transition":
      return `circuit ${from} → ${to}${why}`;
    case "override":
      return to ? `${to}${ends}${why}${from ? ` (was ${from})` : ""}` : `${from || "override"} ended${why}`;
    case "weight_override":
      return `weight ${from} → ${to}${ends}${why}`;
    case "cooling":
      return `rate limited for ${lasted(parseInt(detail, 10) || 0)}`;
    case "updated":
      return `${fieldsText(detail || "")}${why}`;
    default: {
      const more = Object.entries(rest).map(([name, text]) => `${name} ${text}`);
      return [event.event, from !== undefined || to !== undefined ? `${from || "none"} → ${to || "none"}` : "", detail, reason, ...more]
        .filter(Boolean).join(" ");
    }
  }
}

/** What is to be said of a replica's view, as `redis-router replicas` says it; "" where it is in step. */
export function viewText(replica) {
  const said = replica.state === "silent" ? [`silent for ${ago(replica.seen_ms)}: dead, frozen or cut off from Redis`] : [];
  for (const each of replica.differences.slice(0, 3)) {
    said.push(`${each.provider}: saw ${each.sees}, was ${each.record} for ${lasted(each.for_ms)}`);
  }
  for (const [name, circuit] of Object.entries(replica.own).slice(0, 3)) said.push(`${name}: decides by itself, ${circuit}`);
  if (replica.alone_ms >= 1000 && redisNow() - replica.alone_until_ms < 600000) {
    said.push(`was alone for ${lasted(replica.alone_ms)}, until ${ago(replica.alone_until_ms)} ago`);
  }
  return said.join("; ");
}

/** What a record does not hold: permits, who complains, whose calls are under way, who serves it. */
export function around(facts) {
  const said = facts.account ? facts.account.words : {};
  return [["Permits", "permits"], ["Complaining", "reporters"], ["Calls by replica", "calls"], ["Replicas", "replicas"]]
    .filter(([, word]) => said[word] && said[word] !== "-").map(([name, word]) => [name, said[word]]);
}
