// Keeps a page that shows what goes on up to date: the server says that something changed, and the parts that did are fetched
// and set in. What somebody writes in is left alone until they have done. While a page is hidden it does not listen, as a
// browser has few connections to one server.

import { dress } from "/static/every.js";

const AGAIN_SECONDS = 15;  // between tries where the server cannot be listened to
const QUIET_MS = 1000;  // between two fetches at least
const { live } = document.body.dataset;
const written = new Map();  // each part as the server last wrote it
const said = document.createElement("p");
let mark = document.body.dataset.mark;
let wanted = mark;
let source = null;
let fetching = false;
let later = null;

said.className = "unseen";
said.setAttribute("role", "status");
document.body.append(said);

function listen() {
  if (source || document.hidden) return;
  source = new EventSource(live);
  source.addEventListener("message", ({ data }) => hear(JSON.parse(data)));
  source.addEventListener("ended", () => location.reload());
  source.addEventListener("error", () => {
    if (source?.readyState !== EventSource.CLOSED) return;  // it comes back by itself
    close();
    setTimeout(listen, AGAIN_SECONDS * 1000);
    follow();
  });
}

function close() {
  source?.close();
  source = null;
}

function hear({ mark: now, facts }) {
  const own = document.querySelector("#case:not([hidden])") ? 1 : 0;
  for (const [name, value] of Object.entries(facts)) {
    const place = document.querySelector(`[data-fact=${CSS.escape(name)}]`);
    if (place) place.textContent = name === "held" ? Math.max(0, value - own) : value;
  }
  wanted = now;
  if (wanted !== mark && !document.querySelector("[data-fact]")) follow();
}

// -- bringing in what changed

async function follow() {
  if (fetching) return;
  fetching = true;
  const asked = wanted;
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" } });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!page.body.dataset.live) return location.reload();  // it may no longer be seen
    setIn(page);
  } catch { /* no connection: the next event, or the next try, brings it */ }
  setTimeout(() => {
    fetching = false;
    if (wanted !== asked) follow();
  }, QUIET_MS);
}

function setIn(page) {
  const [here, there] = [document.querySelector("main"), page.querySelector("main")];
  const told = tellings(here);
  const old = new Map([...here.children].map((part, place) => [nameOf(part, place), part]));
  let kept = true;
  let before = null;
  [...there.children].forEach((part, place) => {
    const name = nameOf(part, place);
    const text = part.outerHTML;
    let shown = old.get(name);
    old.delete(name);
    if (!shown) {
      shown = document.importNode(part, true);
      here.insertBefore(shown, before ? before.nextSibling : here.firstChild);
    } else if (written.get(name) !== text) {
      if (isWritten(shown)) kept = false;
      else shown = replace(shown, part);
    }
    if (!isWritten(shown)) written.set(name, text);
    dress(shown);
    before = shown;
  });
  for (const [name, part] of old) {
    if (isWritten(part)) kept = false;
    else part.remove();
    written.delete(name);
  }
  if (kept) mark = page.body.dataset.mark;
  else later ??= setTimeout(() => { later = null; follow(); }, 5000);
  const now = tellings(here);
  if (now !== told) said.textContent = now;
}

function replace(shown, part) {
  const focused = focusable(shown).indexOf(document.activeElement);
  const fresh = document.importNode(part, true);
  for (const [place, details] of [...shown.querySelectorAll("details")].entries()) {
    const same = fresh.querySelectorAll("details")[place];
    if (same) same.open = details.open;
  }
  shown.replaceWith(fresh);
  if (focused >= 0) focusable(fresh)[focused]?.focus({ preventScroll: true });
  return fresh;
}

const focusable = (part) => [...part.querySelectorAll("a, button, summary, [tabindex]")];
const nameOf = (part, place) => part.id || part.getAttribute("aria-labelledby") || `${part.tagName} ${place}`;
const tellings = (main) => [...main.querySelectorAll("[data-tell]")].map((one) => one.textContent.trim()).join("; ");

function isWritten(part) {
  return [...part.querySelectorAll("input, textarea, select")].some((field) => field === document.activeElement
    || field.checked !== field.defaultChecked
    || (field.tagName === "SELECT" ? field.selectedIndex !== untouched(field) : field.value !== field.defaultValue));
}

const untouched = (select) => Math.max(0, [...select.options].findIndex((one) => one.defaultSelected));

// -- when to listen

document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else listen();
});
addEventListener("pagehide", close);
addEventListener("pageshow", listen);
listen();
