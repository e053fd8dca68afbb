// Elements. Everything that came from outside becomes text, never markup: there is no innerHTML here, and the
// Content-Security-Policy would refuse it.

import {
  ago, around, callsText, circuitText, clockTime, eventText, failuresText, latencyText, untilText, viewText, weightText,
} from "./words.js";

export const LEVELS = {
  down: ["✖", "Down"],
  trouble: ["▲", "Unsteady"],
  held: ["‖", "Taken out"],
  ok: ["✔", "Well"],
};

export const ORDER = Object.keys(LEVELS);

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; text is text. */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

/** A text, written only where it is another one. */
export function say(id, text) {
  const at = $(id);
  if (at.textContent !== text) at.textContent = text;
}

const SVG = "http://www.w3.org/2000/svg";

/** A small line of the last minutes; the number stands beside it as text. */
export function spark(history, column, kind) {
  const shape = (tag, attributes) => {
    const each = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) each.setAttribute(name, value);
    return each;
  };
  const box = { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" };
  const made = shape("svg", { class: `spark ${kind}`, ...box });
  const values = history ? history[column] : [];
  if (values.length < 2 || (kind === "latency" && !values.some(Boolean))) return made;
  const to = history.at_ms[history.at_ms.length - 1], from = Math.min(history.at_ms[0], to - 60000); // a minute at least
  const most = kind === "failures" ? Math.max(0.2, ...values) : Math.max(1, ...values) * 1.1;
  const points = values.map((value, n) => [(100 * (history.at_ms[n] - from)) / (to - from), 22.5 - (21 * value) / most]);
  const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  made.append(
    shape("polygon", { points: `${points[0][0].toFixed(1)},24 ${line} 100,24`, fill: "currentColor", "fill-opacity": "0.12" }),
    shape("polyline", { points: line, fill: "none", stroke: "currentColor", "stroke-width": "1.5", "vector-effect": "non-scaling-stroke" }));
  return made;
}

export function badge(level) {
  const [mark, word] = LEVELS[level] || ["?", level];
  return h("span", { class: "badge", "data-level": level }, h("span", { "aria-hidden": "true" }, mark), word);
}

export function whyList(facts) {
  const list = h("ul", { class: "why" });
  for (const reason of facts.why) {
    const until = h("span", { class: "until" }, untilText(reason, facts));
    until.tick = () => { until.textContent = untilText(reason, facts); };
    list.append(h("li", {}, reason.text, until));
  }
  return list;
}

/** One provider's line of the table; on a phone a card. */
export function drawRow(facts, history) {
  const circuit = h("span", { class: "small" }, circuitText(facts));
  circuit.tick = () => { circuit.textContent = circuitText(facts); };
  const overdue = facts.overdue ? h("span", { class: "small" }, `${facts.overdue} overdue`) : null;
  const rules = facts.weight_override ? h("span", { class: "small" }, `rules: ${facts.weight_override.rules_weight}`) : null;
  const row = h("tr", { role: "row", "data-level": facts.level, "data-name": facts.name },
    h("td", { role: "cell", class: "state" }, badge(facts.level), circuit),
    h("td", { role: "cell", class: "name" },
      h("button", { type: "button", class: "open", "aria-haspopup": "dialog" }, facts.name),
      h("span", { class: "small" }, facts.models.join(", "))),
    h("td", { role: "cell", class: "why-cell" }, whyList(facts)),
    h("td", { role: "cell", class: "number", "data-label": "Latency" }, latencyText(facts), spark(history, "latency_ms", "latency")),
    h("td", { role: "cell", class: "number", "data-label": "Failures" }, failuresText(facts), spark(history, "failure_rate", "failures")),
    h("td", { role: "cell", class: "calls", "data-label": "Calls under way" }, callsText(facts), overdue),
    h("td", { role: "cell", class: "share", "data-label": "Weight" }, weightText(facts), rules));
  return row;
}

export function replicaItem(replica) {
  const mark = { in_step: "✔", silent: "✖" }[replica.state] || "▲", view = viewText(replica);
  const about = [replica.role, replica.state.replace("_", " "), `version ${replica.version || "?"}`, `for ${ago(replica.since_ms)}`];
  return h("li", { "data-state": replica.state },
    h("span", {}, h("span", { class: "mark", "aria-hidden": "true" }, mark), h("strong", {}, replica.name)),
    h("span", { class: "quiet" }, about.join(", ")),
    view ? h("span", { class: "view" }, view) : null);
}

/** Anybody may write into a log by hand: a date beyond what a browser knows must not end the page. */
const isMoment = (ms) => Math.abs(ms) < 8.64e15;

export function eventItem(event, ofOne) {
  return h("li", {},
    h("time", { datetime: isMoment(event.at_ms) && new Date(event.at_ms).toISOString() }, clockTime(event.at_ms)),
    ofOne ? null : h("strong", {}, event.provider),
    h("span", {}, eventText(event), " ", h("span", { class: "who" }, `by ${event.by || "?"}`)));
}

/** One provider, as pairs of what and what is to be said of it. */
export function inWords(facts, history) {
  const weight = facts.weight_override ? `${weightText(facts)} for a time; by the rules ${facts.weight_override.rules_weight}` : weightText(facts);
  return [
    ["Calls", { yes: "are let through", "trial calls": "trial calls only", "if nobody else is": "only if nobody else answers" }[facts.available] || facts.available],
    ["Under way", `${callsText(facts)}${facts.overdue ? `, ${facts.overdue} overdue` : ""}`],
    ["Latency", latencyText(facts), spark(history, "latency_ms", "latency")],
    ["Failures", failuresText(facts), spark(history, "failure_rate", "failures")],
    ["Last failure", facts.last_failure || "none known"],
    ["Last result", facts.last_result_ms ? `${ago(facts.last_result_ms)} ago` : "none yet"],
    ["Probe", facts.probe || "has none"],
    ["Weight", weight],
    ["Models", facts.models.join(", ") || "none"],
    ...around(facts),
  ];
}
