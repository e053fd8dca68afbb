// The operator's page: what is known of the fleet, live; one provider in a dialog; actions.

import { $, LEVELS, ORDER, badge, drawRow, eventItem, h, inWords, replicaItem, say, whyList } from "./draw.js";
import { ago, circuitText, lasted, redisNow, setClock } from "./words.js";

const API = "api/v1/";
const KEPT = 200; // entries of the timeline
const SHOWN = 15; // of these at first
const SAMPLE_MS = 5000, SAMPLES = 60; // of the history: five minutes, as the worker keeps it
const LATE_MS = 4000; // after so long without a word the connection is taken for lost
const POLL_MS = 5000;
const UNSEEN_MS = 15000; // between two looks of a page that nobody sees: a browser has few connections for all its tabs
const DONE = {
  drain: "Drained", open: "Forced open:", close: "Forced closed:", observe: "Observing", weight: "Weight set for",
  ready: "Ready:", reset: "Reset", end: "Ended what was said of",
};

// What is known

const state = {
  providers: new Map(), // name -> facts
  history: new Map(), // name -> {at_ms, latency_ms, failure_rate}
  rows: new Map(), // name -> {row, facts, history}
  events: [], unreadable: [], leader: null, replicas: null,
  known: false, heardAt: 0, goodAt: 0, error: null, eventsError: null,
  session: { can_log_in: false, may_look: true, may_act: false, csrf: null },
  source: null, polling: 0, unseen: 0, link: "wait", open: null, all: false, asked: null, loading: null,
};

// The page

function ranked() {
  const step = (facts) => -Math.round(10 * facts.failure_rate);
  return [...state.providers.values()].sort((a, b) =>
    ORDER.indexOf(a.level) - ORDER.indexOf(b.level) || step(a) - step(b) || (a.name < b.name ? -1 : 1));
}

function drawRows() {
  const wanted = ranked(), body = $("rows");
  const focused = document.activeElement && body.contains(document.activeElement)
    ? document.activeElement.closest("tr").dataset.name : null;
  for (const [name, { row }] of state.rows) {
    if (!state.providers.has(name)) { row.remove(); state.rows.delete(name); }
  }
  wanted.forEach((facts, place) => {
    const history = state.history.get(facts.name), samples = history ? history.at_ms[history.at_ms.length - 1] : 0;
    let known = state.rows.get(facts.name);
    if (!known || known.facts !== facts || known.samples !== samples) {
      const row = drawRow(facts, history);
      if (known) known.row.replaceWith(row);
      known = { row, facts, samples };
      state.rows.set(facts.name, known);
    }
    if (body.children[place] !== known.row) body.insertBefore(known.row, body.children[place] || null);
  });
  if (focused && state.rows.has(focused)) state.rows.get(focused).row.querySelector("button").focus({ preventScroll: true });
  filterRows();
}

function filterRows() {
  const word = $("search").value.trim().toLowerCase();
  let shown = 0;
  for (const { row, facts } of state.rows.values()) {
    row.hidden = word !== "" && ![facts.name, ...facts.models].some((each) => each.toLowerCase().includes(word));
    shown += !row.hidden;
  }
  $("search-box").hidden = state.rows.size < 8;
  $("none").hidden = shown > 0 || !state.known;
  say("none", state.rows.size ? "No provider has that name or model." :
    "No provider is registered: check the namespace, or start a gateway that registers one.");
}

function drawHeadline() {
  const levels = { down: 0, trouble: 0, held: 0, ok: 0 };
  for (const facts of state.providers.values()) levels[facts.level] += 1;
  const all = state.providers.size, broken = state.unreadable.length;
  const are = (n) => (n === 1 ? "is" : "are");
  const parts = [];
  if (levels.down) parts.push(`${levels.down} of ${all} ${all === 1 ? "provider" : "providers"} ${are(levels.down)} down`);
  if (levels.trouble) parts.push(`${levels.trouble} ${are(levels.trouble)} unsteady`);
  if (levels.held) parts.push(`${levels.held} ${are(levels.held)} taken out by operators`);
  if (broken) parts.push(`${broken} cannot be read`);
  const worst = broken || levels.down ? "down" : levels.trouble ? "trouble" : "ok";
  const now = parts.length ? `${LEVELS[worst][0]} ${parts.join(", ")}` :
    all ? `✔ ${all === 1 ? "The provider is well" : `All ${all} providers are well`}` : "No provider is registered";
  const stale = state.link === "stale" && state.known; // nobody may read from it that all is well
  const text = stale ? `When last seen: ${now}` : now;
  $("headline").dataset.level = stale ? "stale" : worst;
  if ($("headline").textContent !== text) {
    say("headline", text);
    say("announce", text);
  }
  document.title = levels.down || broken ? `(${levels.down + broken}) redis_router` : "redis_router";
}

function leaderText() {
  const leader = state.leader;
  return leader ? `Worker ${leader.worker} leads for ${ago(leader.since_ms)}.` :
    "No worker leads: nothing is probed. Start redis-router worker.";
}

function drawReplicas() {
  const all = state.replicas || [], differ = all.filter((each) => each.state !== "in_step");
  $("replicas").hidden = all.length === 0;
  const workers = all.filter((each) => each.role !== "gateway").length;
  const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  say("replica-sum", `${count(all.length - workers, "gateway")}, ${count(workers, "worker")}, ` +
    (differ.length ? `${differ.length} with another view than the fleet's` : "all in step"));
  const ordered = [...differ, ...all.filter((each) => !differ.includes(each))];
  $("replica-list").replaceChildren(...ordered.map(replicaItem));
}

function drawTimeline() {
  const shown = state.all ? state.events : state.events.slice(0, SHOWN);
  $("timeline").replaceChildren(...shown.map((event) => eventItem(event, false)));
  $("more").hidden = state.all || state.events.length <= SHOWN;
  $("timeline-error").hidden = !state.eventsError;
  if (state.eventsError) say("timeline-error", `What happened cannot be shown: ${state.eventsError}`);
}

function drawBanner() {
  const lines = state.unreadable.map((each) => each.error);
  if (state.error) lines.unshift(`${state.error.message.replace(/\.$/, "")}. What you see is as it was.`);
  $("banner").hidden = lines.length === 0;
  say("banner", lines.join(" "));
}

function drawAll() {
  say("namespace", state.namespace || "");
  drawRows();
  drawHeadline();
  if (state.known) say("leader", leaderText());
  drawBanner();
}

/** What moves by itself: countdowns, ages, and how fresh all of it is. */
function tick() {
  for (const each of document.querySelectorAll(".until, .small")) if (each.tick) each.tick();
  if (state.known) say("leader", leaderText());
  drawLink();
}

function drawLink() {
  const now = performance.now(), silent = now - state.heardAt, old = now - state.goodAt;
  let kind = "live", text = state.polling ? `live, every ${POLL_MS / 1000} s` : "live";
  const late = state.polling ? POLL_MS + LATE_MS : LATE_MS;
  if (!state.known) [kind, text] = state.error ? ["stale", "no data yet"] : ["wait", "connecting"];
  else if (state.error) [kind, text] = ["stale", `stale for ${lasted(old)}`];
  else if (silent > late) [kind, text] = ["stale", `reconnecting, stale for ${lasted(old)}`];
  say("link-text", text);
  $("link").dataset.state = kind;
  if (kind !== state.link) {
    if (kind === "stale") say("announce", "The page is not up to date");
    else if (state.link === "stale") say("announce", "The page is up to date again");
    state.link = kind;
    if (state.known) drawHeadline();
  }
}

// News

function take(message, whole) {
  const now = performance.now(), refusal = state.eventsError;
  state.error = message.error;
  if (message.now_ms !== null) {
    setClock(message.now_ms + message.age_ms, now);
    state.known = true;
  }
  if (whole) {
    state.providers.clear();
    state.history = new Map(Object.entries(message.history));
    state.events = [];
  }
  for (const facts of message.providers) {
    const before = state.providers.get(facts.name);
    if (!before || JSON.stringify(before) !== JSON.stringify(facts)) state.providers.set(facts.name, facts);
  }
  Object.assign(state, {
    namespace: message.namespace, leader: message.leader, unreadable: message.unreadable,
    eventsError: message.events_error,
  });
  if ("replicas" in message) {
    state.replicas = message.replicas;
    drawReplicas();
  }
  if (!message.error) sample();
  if (whole || message.events.length) {
    state.events = [...message.events, ...state.events].sort((a, b) => b.at_ms - a.at_ms).slice(0, KEPT);
    drawTimeline();
  } else if (refusal !== message.events_error) drawTimeline();
  drawAll();
  // only now: what cannot be drawn must not pass for what is up to date
  state.heardAt = now;
  if (message.now_ms !== null) state.goodAt = now - message.age_ms;
  drawLink();
  const touched = state.open && (whole || message.providers.some((each) => each.name === state.open) ||
    message.events.some((each) => each.provider === state.open));
  if (touched) loadDrill();
}

/** The averages of now go into the history, as the worker keeps its own. */
function sample() {
  const now = Math.round(redisNow());
  for (const [name, facts] of state.providers) {
    const history = state.history.get(name) || { at_ms: [], latency_ms: [], failure_rate: [] };
    state.history.set(name, history);
    const last = history.at_ms[history.at_ms.length - 1];
    if (last !== undefined && now - last < SAMPLE_MS) continue;
    history.at_ms.push(now);
    history.latency_ms.push(facts.latency_ms || 0);
    history.failure_rate.push(facts.failure_rate);
    if (history.at_ms.length > SAMPLES) for (const column of Object.values(history)) column.shift();
  }
}

function listen() {
  if (document.hidden) { poll(); return; }
  if (state.source) state.source.close();
  const source = new EventSource(`${API}stream`);
  state.source = source;
  for (const kind of ["fleet", "changes"]) {
    source.addEventListener(kind, (event) => {
      clearInterval(state.polling);
      state.polling = 0;
      take(JSON.parse(event.data), kind === "fleet");
    });
  }
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return; // it connects again by itself
    source.close();
    refused();
  };
}

/** The stream was refused: as many look on as may, or the login is over, or the worker is not there. */
async function refused() {
  await loadSession();
  if (!state.session.may_look) { askToLogIn(); return; }
  if (!state.polling) state.polling = setInterval(poll, POLL_MS);
  poll();
  setTimeout(listen, 2 * POLL_MS);
}

document.addEventListener("visibilitychange", () => {
  clearInterval(state.unseen);
  if (!state.session.may_look) return;
  if (document.hidden) {
    if (state.source) state.source.close();
    state.unseen = setInterval(poll, UNSEEN_MS);
  } else listen();
});

async function poll() {
  try {
    const answer = await fetch(`${API}fleet`);
    const message = await answer.json();
    if (message.providers) take(message, true);
  } catch { /* it is away: the page says how old it is */ }
}

// Sessions

async function loadSession() {
  try {
    state.session = await (await fetch(`${API}session`)).json();
  } catch { return; }
  $("log-in").hidden = !state.session.can_log_in || state.session.may_act;
  $("log-out").hidden = !state.session.may_act;
  drawAct();
}

function askToLogIn() {
  $("login-error").textContent = "";
  if (!$("login").open) $("login").showModal();
}

async function post(word, body) {
  const headers = { "Content-Type": "application/json" };
  if (state.session.csrf) headers["X-CSRF-Token"] = state.session.csrf;
  const answer = await fetch(API + word, { method: "POST", headers, body: JSON.stringify(body) });
  return [answer, await answer.json()];
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const [answer, said] = await post("login", { token: $("token").value });
    if (!answer.ok) { say("login-error", said.error.message); return; }
  } catch { say("login-error", "The page does not answer: try again"); return; }
  $("token").value = "";
  $("login").close();
  await loadSession();
  if (!state.source || state.source.readyState === EventSource.CLOSED) listen();
});
$("log-in").addEventListener("click", askToLogIn);
$("login-cancel").addEventListener("click", () => $("login").close());
$("log-out").addEventListener("click", async () => {
  await post("logout", {});
  location.reload();
});

// One provider

const path = (name) => name.split("/").map(encodeURIComponent).join("/");

function openDrill(name) {
  state.open = name;
  say("done", "");
  $("confirm").hidden = true;
  drawDrill(null);
  drawAct();
  if (!$("drill").open) $("drill").showModal();
  $("drill").scrollTop = 0;
  history.replaceState(null, "", `#/${encodeURIComponent(name)}`);
  loadDrill();
}

$("drill").addEventListener("close", () => {
  const name = state.open;
  state.open = null;
  history.replaceState(null, "", location.pathname + location.search);
  if (state.rows.has(name)) state.rows.get(name).row.querySelector("button").focus({ preventScroll: true });
});
$("drill-close").addEventListener("click", () => $("drill").close());
$("drill").addEventListener("click", (event) => { if (event.target === $("drill")) $("drill").close(); });

async function loadDrill() {
  const name = state.open;
  if (!name || state.loading === name) return; // what comes meanwhile comes with the next change
  state.loading = name;
  try {
    const answer = await fetch(`${API}providers/${path(name)}`);
    const found = await answer.json();
    if (state.open === name) drawDrill(answer.ok ? found : null, answer.ok ? "" : found.error.message);
  } catch { /* what is shown stays; the page says how old it is */ }
  if (state.loading === name) state.loading = null;
}

function drawDrill(found, error = "") {
  const facts = found || state.providers.get(state.open);
  say("drill-title", state.open || "");
  if (error || !facts) { $("drill-state").replaceChildren(h("p", { class: "error" }, error || "This provider is gone.")); return; }
  const circuit = h("span", { class: "small" }, circuitText(facts));
  circuit.tick = () => { circuit.textContent = circuitText(facts); };
  $("drill-state").replaceChildren(h("p", {}, badge(facts.level), circuit), whyList(facts));
  $("facts").replaceChildren(...inWords(facts, state.history.get(facts.name)).flatMap(([name, ...value]) => [h("dt", {}, name), h("dd", {}, ...value)]));
  if (!found) return;
  $("drill-events").className = "events of-one";
  $("drill-events").replaceChildren(...found.events.map((event) => eventItem(event, true)));
  $("drill-events-error").hidden = !found.events_error;
  if (found.events_error) say("drill-events-error", `This cannot be shown: ${found.events_error}`);
  const { config, ...fields } = found.record;
  $("record").replaceChildren(...Object.entries({ ...fields, ...config }).flatMap(([name, value]) =>
    [h("dt", {}, name), h("dd", {}, typeof value === "string" ? value || '""' : JSON.stringify(value))]));
}

// Actions

function remember(name, value) { try { localStorage.setItem(name, value); } catch { /* not allowed: not remembered */ } }
function remembered(name) { try { return localStorage.getItem(name) || ""; } catch { return ""; } }
$("by").value = remembered("redis_router.by");

function drawAct() {
  const { may_act: may, can_log_in: can } = state.session;
  $("act").hidden = !may;
  $("act-note").hidden = may;
  $("act-note").replaceChildren(...(can
    ? [h("button", { type: "button", onclick: askToLogIn }, "Log in to act"), " or use redis-router drain and its like."]
    : ["Here one only looks: no token is configured. Start the worker with --page-token-env NAME, or use redis-router drain and its like."]));
}

$("act").addEventListener("submit", (event) => {
  event.preventDefault();
  const action = event.submitter ? event.submitter.dataset.action : "drain";
  const said = { provider: state.open, action, reason: $("reason").value, by: $("by").value.trim() };
  if (action !== "ready" && action !== "reset") said.seconds = $("lasts").value === "" ? null : Number($("lasts").value);
  if (action === "weight") said.weight = Number($("weight").value);
  remember("redis_router.by", said.by);
  act(said);
});
// Enter in a field does nothing: which of the buttons would it mean?
$("act").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.tagName === "INPUT") event.preventDefault(); });

async function act(said) {
  $("confirm").hidden = true;
  $("done").removeAttribute("data-bad");
  say("done", "…");
  for (const each of $("act").querySelectorAll("button")) each.disabled = true;
  try {
    const [answer, found] = await post("actions", said);
    if (answer.ok) {
      say("done", `✔ ${DONE[said.action]} ${said.provider}, by ${found.by}`);
      $("reason").value = "";
      for (const facts of found.providers) state.providers.set(facts.name, facts);
      drawAll();
      loadDrill();
    } else if (answer.status === 409 && found.error.left_alone) {
      state.asked = said;
      say("done", "");
      say("confirm-text", `Nobody would be left for ${found.error.left_alone.join(", ")}.`);
      $("confirm").hidden = false;
    } else {
      $("done").dataset.bad = "";
      say("done", `✖ ${found.error.message}`);
      if (answer.status === 401) { await loadSession(); askToLogIn(); }
    }
  } catch {
    $("done").dataset.bad = "";
    say("done", "✖ No answer: look whether it was done before you try again");
  }
  for (const each of $("act").querySelectorAll("button")) each.disabled = false;
  if (!$("confirm").hidden) $("confirm-yes").focus();
}

$("confirm-yes").addEventListener("click", () => act({ ...state.asked, yes: true }));
$("confirm-no").addEventListener("click", () => { $("confirm").hidden = true; });
$("rows").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !String(getSelection())) openDrill(row.dataset.name);
});
$("search").addEventListener("input", filterRows);
$("more").addEventListener("click", () => { state.all = true; drawTimeline(); });

// Begin

function nameIn(text) { try { return decodeURIComponent(text); } catch { return text; } }

async function begin() {
  setInterval(tick, 500);
  await loadSession();
  if (state.session.may_look) listen();
  else askToLogIn();
  if (location.hash.startsWith("#/")) openDrill(nameIn(location.hash.slice(2)));
}
begin();
