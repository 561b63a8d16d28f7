// The chat page: asks one version or two, and keeps what the reader thinks of the answers. Everything that came from a
// model or a user is set as text, never as markup.

import { Answer } from "/static/answer.js";
import { Opinion } from "/static/opinion.js";
import { call, find, moment, part, stars, tell } from "/static/page.js";

const RECENT = "/v1/inferences?limit=20";
const turns = [];
let stopping = null;  // what stops the answers that are coming

// -- which versions are asked

function offerVersions() {
  const { champion = "base", versions = "" } = find("model").selectedOptions[0]?.dataset ?? {};
  const named = versions.split(" ").filter(Boolean).map((one) => new Option(one === champion ? `${one} (serves)` : one, one));
  find("version").replaceChildren(new Option("as users get it", ""), ...named);
  find("other").replaceChildren(new Option("nothing", ""), ...named.map((one) => one.cloneNode(true)));
  find("blind").hidden = true;
}

function wanted(version, messages) {
  const model = find("model").value;
  const user = find("desk").dataset.user;
  return { model: version ? `${model}@${version}` : model, messages, stream: find("stream").checked, ...(user && { user }) };
}

// The champion, where a side is to be what users get: a canary's share must not decide what is compared.
function versionBeside() {
  return find("version").value || find("model").selectedOptions[0].dataset.champion;
}

// -- asking

function begin(text) {
  const article = find("turn").content.firstElementChild.cloneNode(true);
  article.querySelector(".asked").textContent = text;
  find("turns").append(article);
  const messages = [...(find("remember").checked ? turns.flatMap(said) : []), { role: "user", content: text }];
  const turn = { article, messages, answers: [], shown: 0, blind: false };
  turns.push(turn);
  article.querySelector(".earlier").addEventListener("click", () => show(turn, turn.shown - 1));
  article.querySelector(".later").addEventListener("click", () => show(turn, turn.shown + 1));
  article.querySelector(".better").addEventListener("click", () => prefer(turn, turn.answers[turn.shown], neighbour(turn)));
  for (const button of article.querySelectorAll("[data-better]")) button.addEventListener("click", () => choose(turn, button.dataset.better));
  return turn;
}

// A turn as it goes into the next request: what was asked, and the answer that is shown.
function said(turn) {
  const answer = turn.answers[turn.shown];
  return answer?.state === "whole" ? [turn.messages.at(-1), { role: "assistant", content: answer.text }] : [];
}

async function ask(turn) {
  const answer = add(turn, new Answer());
  show(turn, turn.answers.length - 1);
  await during((signal) => answer.come(wanted(find("version").value, turn.messages), signal));
  settle(turn, answer);
  look(turn);
}

async function askBoth(turn) {
  const versions = [versionBeside(), find("other").value];
  if (crypto.getRandomValues(new Uint8Array(1))[0] & 1) versions.reverse();
  turn.blind = true;
  turn.article.querySelector(".answers").classList.add("two");
  const answers = versions.map((_, place) => add(turn, new Answer("AB"[place])));
  await during((signal) => Promise.all(answers.map((one, place) => one.come(wanted(versions[place], turn.messages), signal))));
  if (answers.some((one) => one.state !== "whole")) reveal(turn);
  else if (answers[0].text.trim() === answers[1].text.trim()) reveal(turn, "Both answered the same.");
  else turn.article.querySelector(".which").hidden = false;
  look(turn);
}

function add(turn, answer) {
  turn.answers.push(answer);
  turn.article.querySelector(".answers").append(answer.section);
  turn.article.scrollIntoView({ block: "nearest" });
  return answer;
}

async function during(work) {
  stopping = new AbortController();
  busy(true);
  await work(stopping.signal);
  stopping = null;
  busy(false);
}

function busy(is) {
  find("send").disabled = is;
  find("stop").hidden = !is;
  for (const again of document.querySelectorAll(".again")) again.disabled = is;
}

function settle(turn, answer) {
  answer.reveal();
  if (answer.problem?.status === 401) lock("Your session has ended: sign in again, and go on where you were.");
  if (answer.state === "whole") answer.opinion = new Opinion(answer, soon);
  for (const again of answer.section.querySelectorAll(".again")) {
    again.addEventListener("click", () => regenerate(turn));
    again.hidden = turn.blind;
  }
  answer.part(".retry").hidden = answer.state === "whole" || turn.blind;
  soon();
}

// To where the single keys act, unless somebody writes the next message already.
function look(turn) {
  const writes = find("message").value !== "" || ![find("message"), find("stop"), document.body].includes(document.activeElement);
  if (!writes) (find("keys").checked ? turn.answers.at(-1).section : find("message")).focus({ preventScroll: true });
}

// -- another answer to the same prompt

function regenerate(turn) {
  if (!stopping && !turn.blind) ask(turn);
}

function show(turn, place) {
  turn.shown = Math.max(0, Math.min(place, turn.answers.length - 1));
  turn.answers.forEach((one, at) => { one.section.hidden = at !== turn.shown; });
  const pager = turn.article.querySelector(".pager");
  pager.hidden = turn.answers.length < 2;
  if (pager.hidden) return;
  pager.querySelector(".place").textContent = `answer ${turn.shown + 1} of ${turn.answers.length}`;
  pager.querySelector(".earlier").disabled = turn.shown === 0;
  pager.querySelector(".later").disabled = turn.shown === turn.answers.length - 1;
  const other = neighbour(turn);
  pager.querySelector(".better").textContent = `Better than answer ${turn.answers.indexOf(other) + 1}`;
}

// What the shown answer is compared with: the one before it, and for the first the one after.
function neighbour(turn) {
  return turn.answers[turn.shown === 0 ? 1 : turn.shown - 1];
}

async function prefer(turn, better, worse) {
  const outcome = turn.article.querySelector(":scope > .outcome");
  outcome.classList.remove("bad");
  if (!better.opinion || worse.state !== "whole") outcome.textContent = "Only whole answers can be compared.";
  else if (better.text.trim() === worse.text.trim()) outcome.textContent = "Both say the same.";
  else if (await better.opinion.prefer(worse)) {
    for (const one of turn.answers) one.section.classList.toggle("preferred", one === better);
    outcome.textContent = "Thank you, your preference is kept.";
  } else {
    outcome.classList.add("bad");
    outcome.textContent = "Your preference could not be kept; try again.";
    return false;
  }
  return true;
}

// -- two answers side by side, blind until one is chosen

async function choose(turn, place) {
  const which = turn.article.querySelector(".which");
  if (which.hidden || which.inert) return;
  which.inert = true;
  reveal(turn, "No preference was kept.");
  which.hidden = true;
  if (place === "") return;
  turn.shown = Number(place);
  if (!(await prefer(turn, turn.answers[turn.shown], turn.answers[1 - turn.shown]))) {
    which.inert = false;
    which.hidden = false;
  }
}

function reveal(turn, outcome = "") {
  if (turn.revealed) return;
  turn.revealed = true;
  turn.article.querySelector(":scope > .outcome").textContent = outcome;
  for (const answer of turn.answers) {
    if (!answer.opinion) settle(turn, answer);
    if (answer.version) answer.part(".side").textContent += `: ${answer.version}`;
  }
}

// -- what was asked lately

function soon() {
  setTimeout(refresh, 500);
}

async function refresh() {
  if (turns.some((turn) => !turn.article.querySelector(".which").hidden)) return;  // the list would tell which is which
  let items;
  try {
    ({ items } = await (await call(RECENT)).json());
  } catch {
    return;  // a key without the right to read: the list stays as it is
  }
  find("recent").replaceChildren(...items.map(line));
  find("none").hidden = items.length > 0;
}

function line(one) {
  const item = document.createElement("li");
  const facts = document.createElement("p");
  facts.className = "facts";
  facts.append(
    moment(one.created),
    part("span", `${one.model}@${one.version}`),
    part("span", `${Math.round(one.latency_ms)} ms`),
  );
  if (one.status !== 200) facts.append(part("span", `status ${one.status}`, "bad"));
  facts.append(
    one.rating ? stars(one.rating) : part("span", "not rated"),
  );
  item.append(facts, part("p", one.prompt ?? "", "asked"), part("p", one.output ?? one.error ?? "", "said"));
  return item;
}

// -- the session

function lock(message) {
  find("lock-reason").hidden = true;
  tell(find("lock-problem"), message);
  find("lock").hidden = false;
  find("desk").hidden = true;
}

find("lock").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = find("key").value.trim();
  find("key").value = "";
  try {
    const { owner } = await (await call("/session", { key })).json();
    if (turns.length && owner === find("desk").dataset.user) goOn();
    else location.reload();
  } catch (problem) {
    lock(problem.message);
  }
});

// The same person again, after a session that ended while they wrote.
function goOn() {
  find("lock").hidden = true;
  find("desk").hidden = false;
  if (!find("message").value) find("message").value = turns.at(-1).messages.at(-1).content;
  find("message").focus();
}

// -- keys

// The answer that a key is meant for: the one in focus, else the newest.
function current() {
  const turn = turns.findLast((one) => one.article.contains(document.activeElement)) ?? turns.at(-1);
  const answer = turn?.answers.find((one) => one.section.contains(document.activeElement)) ?? turn?.answers[turn.shown];
  return [turn, answer];
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && stopping) return stopping.abort();
  const writes = event.target.closest("textarea, select, input:not([type=radio], [type=checkbox])");
  if (writes || !find("keys").checked || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const [turn, answer] = current();
  const act = {
    a: () => choose(turn, "0"), b: () => choose(turn, "1"), t: () => choose(turn, ""),
    e: () => answer.opinion?.edit(), r: () => regenerate(turn), m: () => find("message").focus(),
  }[event.key] ?? ("12345".includes(event.key) ? () => answer.opinion?.rate(Number(event.key)) : null);
  if (!act || !turn) return;
  event.preventDefault();
  act();
});

find("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("ask").requestSubmit();
  }
});

find("stop").addEventListener("click", () => stopping?.abort());
find("model").addEventListener("change", offerVersions);
find("other").addEventListener("change", () => { find("blind").hidden = !find("other").value; });

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = find("message").value.trim();
  if (!text || stopping) return;
  find("message").value = "";
  const turn = begin(text);
  if (find("other").value) askBoth(turn);
  else ask(turn);
});

offerVersions();
