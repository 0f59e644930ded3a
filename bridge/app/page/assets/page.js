// Live regions: elements with `data-live` and an id are replaced by what the server now says of this page.
// Without this script the page shows the same, as of its loading.
const PERIOD = 5000;
const LEAST = 1000;
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

export async function refresh() {
  if (running) { again = true; return; }
  running = true;
  last = Date.now();
  try {
    const answer = await fetch(location.href, { cache: "no-store", redirect: "error", signal: AbortSignal.timeout(30000) });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const region of regions()) {
      const found = fresh.getElementById(region.id);
      if (found) replace(region, found);
    }
    lost.hidden = true;
  } catch (error) {
    const shown = lost.dataset.since ?? new Date().toLocaleTimeString();
    if (lost.hidden) lost.dataset.since = shown;
    lost.textContent = `No answer of the daemon since ${lost.dataset.since}: this page shows what was known then. It tries again.`;
    lost.hidden = false;
  } finally {
    running = false;
    if (again) { again = false; soon(); }
  }
}

let timer = 0;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, Math.max(0, LEAST - (Date.now() - last)));
}

if (regions().length) {
  if (stream) {
    const events = new EventSource(stream);
    events.onmessage = soon;
    events.onerror = soon;
  }
  setInterval(() => { if (!document.hidden && (!stream || !lost.hidden)) refresh(); }, PERIOD);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
}
