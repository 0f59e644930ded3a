// Live regions: elements with `data-live` and an id are replaced by what the server now says of this page.
// Without this script the page shows the same, as of its loading.
const PERIOD = 5000;
const LEAST = 1000;
const SILENT = 15000;
const lost = document.getElementById("lost");
const stream = document.documentElement.dataset.stream;
const regions = () => [...document.querySelectorAll("[data-live][id]")];
let running = false;
let again = false;
let last = 0;

const isEdited = (region) => region.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");

function replace(region, fresh) {
  if (region.outerHTML === fresh.outerHTML || isEdited(region)) return;
  const opened = [...region.querySelectorAll("details")].map((each) => each.open);
  const focused = region.contains(document.activeElement) ? [...region.querySelectorAll("a, button, summary, [tabindex]")].indexOf(document.activeElement) : -1;
  if (opened.some(Boolean) && region.querySelector("details[open] form")) return;
  const scrolled = [...region.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  region.replaceWith(document.adoptNode(fresh));
  fresh.querySelectorAll("details").forEach((each, at) => { each.open = opened[at] ?? each.open; });
  fresh.querySelectorAll(".scroll").forEach((each, at) => { each.scrollLeft = scrolled[at] ?? 0; });
  if (focused >= 0) fresh.querySelectorAll("a, button, summary, [tabindex]")[focused]?.focus({ preventScroll: true });
}

// A region that has appeared stands behind, or before, a neighbour that both pages have
function insert(fresh) {
  const known = (each) => each.id && document.getElementById(each.id);
  let before = fresh.previousElementSibling, behind = fresh.nextElementSibling;
  while (before && !known(before)) before = before.previousElementSibling;
  while (behind && !known(behind)) behind = behind.nextElementSibling;
  if (before) known(before).after(document.adoptNode(fresh));
  else if (behind) known(behind).before(document.adoptNode(fresh));
}

// Answers that a person asks for once, because they cost the daemon more
const ONCE = ["check", "plan"];

function here() {
  const found = new URL(location.href);
  for (const name of ONCE) found.searchParams.delete(name);
  return found;
}

export async function refresh() {
  if (running) { again = true; return; }
  running = true;
  last = Date.now();
  try {
    const answer = await fetch(here(), { cache: "no-store", redirect: "error", signal: AbortSignal.timeout(SILENT) });
    if (answer.status === 401) { location.reload(); return; }
    if (!answer.ok) throw new Error(`The daemon answers ${answer.status} ${answer.statusText}`.trim(), { cause: answer.status });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const before = regions();
    // The last one first: each is placed beside a neighbour that was there before
    for (const each of [...fresh.querySelectorAll("[data-live][id]")].reverse()) if (!document.getElementById(each.id)) insert(each);
    for (const region of before) {
      const found = fresh.getElementById(region.id);
      if (found) replace(region, found);
      else if (!isEdited(region) && !region.querySelector("details[open] form")) region.remove();
    }
    lost.hidden = true;
  } catch (error) {
    const shown = lost.dataset.since ?? new Date().toLocaleTimeString();
    if (lost.hidden) lost.dataset.since = shown;
    const what = error.cause ? error.message : "No answer of the daemon";
    lost.textContent = `${what} since ${lost.dataset.since}: this page shows what was known then. It tries again.`;
    lost.hidden = false;
  } finally {
    running = false;
    if (again || isUnfinished()) { again = false; soon(); }
  }
}

// A part that the daemon is still reading
const isUnfinished = () => document.querySelector('[data-live="soon"]') !== null;

let timer = 0;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, Math.max(0, LEAST - (Date.now() - last)));
}

// A browser gives up after an answer that is no stream: a daemon that starts, or has too many readers
let heard = Date.now();
function listen() {
  const events = new EventSource(stream);
  const hear = (changed) => { heard = Date.now(); if (changed || !lost.hidden) soon(); };
  events.addEventListener("state", () => hear(true));
  events.addEventListener("change", () => hear(true));
  events.addEventListener("beat", () => hear(false));
  events.onerror = () => { soon(); if (events.readyState === EventSource.CLOSED) setTimeout(listen, PERIOD); };
}

if (regions().length) {
  if (isUnfinished()) soon();
  if (stream) {
    listen();
    setInterval(() => { if (Date.now() - heard > SILENT) soon(); }, PERIOD);
  }
  // The stream follows the status of the daemon; what else changes is asked for
  const polls = document.querySelector('[data-live="poll"]') !== null;
  setInterval(() => { if (!document.hidden && (!stream || polls || !lost.hidden)) refresh(); }, PERIOD);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
}

// Live view of settled messages: rows of the stream of one daemon, the newest first.
const MOST_ROWS = 200;

function cell(row, ...content) {
  const made = row.insertCell();
  made.append(...content);
  return made;
}

function linked(path, id) {
  const made = document.createElement("a");
  made.className = "id";
  made.href = `/${path}/${encodeURIComponent(id)}`;
  made.textContent = id;
  return made;
}

function badge(word) {
  const tones = { executed: "good", early: "warn", quarantined: "warn", dead_lettered: "bad" };
  const made = document.createElement("span");
  made.className = `badge ${tones[word] ?? ""}`;
  made.textContent = String(word).replaceAll("_", " ");
  return made;
}

function led(delivery) {
  const found = delivery.steps.flatMap(({ command }) => [command.type, " ", command.instance_id ? linked("instances", command.instance_id) : command.key ?? "", " "]);
  return delivery.reason ? [`${delivery.reason}: ${delivery.detail ?? ""}`] : found;
}

function show(body, delivery) {
  const row = body.insertRow(0);
  const position = `${delivery.topic}/${delivery.partition}@${delivery.offset}`;
  cell(row, new Date(delivery.at).toLocaleTimeString());
  cell(row, delivery.source);
  cell(row, badge(delivery.outcome));
  cell(row, linked("messages", position), " ", delivery.message_id && !delivery.message_id.endsWith(position) ? delivery.message_id : "");
  cell(row, delivery.routes.join(", "));
  cell(row, ...led(delivery));
  cell(row, `${(delivery.seconds * 1000).toFixed(1)} ms`).className = "n";
  while (body.rows.length > MOST_ROWS) body.deleteRow(-1);
}

function watch(section) {
  const [state, controls, table] = [".tap-state", ".tap-controls", ".scroll"].map((each) => section.querySelector(each));
  const body = table.querySelector("tbody");
  const button = controls.querySelector("button");
  const options = encodeURIComponent(section.dataset.tap);
  for (const each of [state, controls, table]) each.hidden = false;
  state.textContent = "Waiting for messages.";
  const events = new EventSource(`${section.dataset.stream}?options=${options}`);
  let paused = false;
  button.onclick = () => { paused = !paused; button.textContent = paused ? "Go on" : "Pause"; };
  events.onmessage = ({ data }) => {
    const { daemon, counts, delivery } = JSON.parse(data);
    const left = counts.over_rate + counts.unread;
    if (delivery && !paused) show(body, delivery);
    const text = `Daemon ${daemon}: ${counts.settled} settled, ${counts.matched} selected${left ? `, ${left} not shown (more than this view takes)` : ""}${paused ? "; paused" : ""}.`;
    if (!delivery && state.textContent !== text) state.textContent = text;
  };
  events.onerror = () => {
    state.textContent = events.readyState === EventSource.CLOSED
      ? "The live view has ended: this session may not read it, or too many readers watch. Load the page again."
      : "No answer of the daemon. The live view tries again.";
  };
  addEventListener("pagehide", () => events.close());
}

document.querySelectorAll("[data-tap]").forEach(watch);
