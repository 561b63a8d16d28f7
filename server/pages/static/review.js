// The review page: one failure case at a time, decided by a key. The case is kept for this page alone while it is open.

import { call, find, moment, part, stars, tell } from "/static/page.js";

const desk = find("case");
const holder = crypto.getRandomValues(new Uint8Array(16)).reduce((text, byte) => text + byte.toString(16).padStart(2, "0"), "");
const skipped = new Set();
const done = [];  // what can be taken back: {id, kind}
const times = [];  // when decisions were made
const PACED = 20;
let current = null;
let chosen = 0;
let busy = false;

const SOURCES = {
  demonstration: "a user's correction", reviewer: "a reviewer's correction", teacher: "the teacher", "best-of-n": "the model's own best of several",
};
const TOLD = { accept: "The proposal is accepted.", correct: "The correction is kept.", right: "Kept as right.", dismiss: "Dismissed.", skip: "Skipped." };

// -- the case

async function next(first) {
  const wanted = { model: desk.dataset.model, holder, skip: [...skipped], ...(first && { first }) };
  const claimed = await (await call("/v1/failures/claim", wanted)).json();
  find("waiting").textContent = claimed.waiting;
  find("held").textContent = claimed.held;
  find("seen").textContent = claimed.seen;
  find("seen-by").hidden = !claimed.seen;
  find("decided").textContent = claimed.decided;
  find("pace").textContent = pace();
  return claimed;
}

async function advance(first) {
  show(await next(first));
}

function show({ case: found, waiting, held }) {
  current = found;
  desk.hidden = !found;
  desk.setAttribute("aria-busy", "false");
  find("none").hidden = Boolean(found);
  for (const undo of document.querySelectorAll("[data-key=u]")) undo.disabled = done.length === 0;
  if (!found) return showNone(waiting, held);
  leaveEdit();
  find("facts").replaceChildren(
    part("span", `${found.model}@${found.version ?? "?"}`),
    moment(found.created),
    part("span", found.alike > 1 ? `${found.alike - 1} more like it` : "none like it"),
    part("span", `value ${found.value.toFixed(2)}`),
    link(`/inferences/${found.inference_id}`, "inference"),
  );
  find("reasons").replaceChildren(...found.reasons.map((one) => part("li", `${one.reason.replaceAll("_", " ")}: ${one.evidence}`)));
  find("group").hidden = found.alike < 2;
  find("with-alike").checked = false;
  find("alike-count").textContent = found.alike - 1;
  if (found.opinions) find("reasons").append(part("li", `second opinion: ${found.opinions === 1 ? "another reviewer has" : `${found.opinions} others have`} decided; what, is not shown`));
  else if (found.waits) find("reasons").append(part("li", `waits: ${found.waits}`));
  const [asked, ...before] = [...found.messages].reverse();
  showBefore(before.reverse());
  find("prompt").textContent = found.stored ? (asked?.content ?? "") : "The texts of this inference were not kept.";
  find("answer").textContent = found.answer || "(an empty answer)";
  find("remarks").replaceChildren(...found.feedback.map(remark).filter(Boolean));
  chosen = 0;
  find("proposals").replaceChildren(...found.proposals.map(proposal));
  if (!found.proposals.length) find("proposals").append(part("p", "Nobody proposed an answer yet: e writes one.", "quiet"));
  choose(0);
  find("case-title").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function showNone(waiting, held) {
  const others = Math.min(held, waiting);
  if (skipped.size && waiting > others) {
    find("none-title").textContent = "All that is left was skipped";
    find("none-why").textContent = `${skipped.size} skipped in this sitting.`;
  } else if (waiting) {
    find("none-title").textContent = "Others have the rest";
    find("none-why").textContent = `${waiting} wait, and other reviewers are looking at them.`;
  }
  find("again").hidden = !skipped.size;
  find("none-title").focus();
}

function showBefore(messages) {
  const [summary, body] = find("before").children;
  find("before").hidden = !messages.length;
  find("before").open = false;
  summary.textContent = messages.length === 1 ? "1 message before" : `${messages.length} messages before`;
  body.replaceChildren(...messages.map((one) => part("p", `${one.role}: ${one.content ?? ""}`, "asked")));
}

function remark(one) {
  if (!one.rating && !one.comment) return null;
  const line = part("p", "", "remark");
  if (one.rating) line.append(stars(one.rating), " ");
  line.append(part("span", `${one.rater}${one.comment ? `: ${one.comment}` : ""}`));
  return line;
}

function proposal(one, place) {
  const label = part("label", "", "proposal");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "proposal", value: place });
  input.addEventListener("change", () => choose(place));
  const head = part("p", "", "facts");
  head.append(input, part("kbd", place + 1), part("span", `${SOURCES[one.source] ?? one.source} (${one.origin})`));
  for (const check of one.checks) {
    const told = part("span", `${check.passed ? "✓" : "✗"} ${check.check}`, check.passed ? "" : "bad");
    if (check.told) told.title = check.told;
    head.append(told);
  }
  const failed = one.checks.filter((check) => !check.passed).map((check) => check.told).join("; ");
  label.append(head);
  if (failed) label.append(part("p", failed, "bad"));
  const text = part("p", "", "difference");
  for (const [kind, piece] of one.difference) text.append(part({ same: "span", gone: "del", new: "ins" }[kind], piece));
  label.append(text);
  return label;
}

function choose(place) {
  const options = find("proposals").querySelectorAll("input");
  if (place >= options.length) return;
  chosen = place;
  options[place].checked = true;
}

function link(address, text) {
  const made = part("a", text);
  made.href = address;
  return made;
}

// -- deciding

async function once(work) {
  if (busy) return;
  busy = true;
  find("problem").hidden = true;
  try {
    await work();
  } catch (problem) {
    tell(find("problem"), problem.message);
    find("problem").hidden = false;
    if (problem.status === 409 || problem.status === 404) await advance();  // decided elsewhere
  } finally {
    busy = false;
  }
}

async function decided(kind, also = []) {
  done.push({ id: current.id, kind, also });
  if (kind !== "skip") times.push(performance.now());
  await advance();
  find("outcome").textContent = also.length ? `${TOLD[kind]} So are ${also.length} more like it.` : TOLD[kind];
}

const withAlike = () => !find("group").hidden && find("with-alike").checked;

// The cases like it with which the same was done.
async function resolve(body) {
  const answer = await call(`/v1/failures/${current.id}/resolve`, { ...body, ...(withAlike() && { alike: true }) });
  return (await answer.json()).also;
}

const ACTS = {
  async a() {
    const one = current.proposals[chosen];
    if (!one) return enterEdit();
    if (one.candidate_id && !withAlike()) await call(`/v1/candidates/${one.candidate_id}/decide`, { action: "accept" });
    else return decided("accept", await resolve({ action: "correct", correction: one.answer }));
    await decided("accept");
  },
  e: async () => enterEdit(),
  async r() {
    await decided("right", await resolve({ action: "accept" }));
  },
  async d() {
    await decided("dismiss", await resolve({ action: "dismiss" }));
  },
  async s() {
    skipped.add(current.id);
    await decided("skip");
  },
  async g() {
    if (!find("group").hidden) find("with-alike").checked = !find("with-alike").checked;
  },
  async u() {
    const last = done.at(-1);
    if (!last) return;
    if (last.kind === "skip") skipped.delete(last.id);
    else {
      for (const id of [...last.also, last.id]) await call(`/v1/failures/${id}/reopen`, undefined, "POST");
      times.pop();
    }
    done.pop();
    await advance(last.id);
    find("outcome").textContent = "Taken back.";
  },
};

function enterEdit() {
  find("correction").value = (current.proposals[chosen]?.answer ?? current.answer) || "";
  find("edit").hidden = false;
  find("acts").hidden = true;
  find("correction").focus();
}

function leaveEdit() {
  find("edit").hidden = true;
  find("acts").hidden = false;
}

function save() {
  return once(async () => {
    await decided("correct", await resolve({ action: "correct", correction: find("correction").value }));
  });
}

function pace() {
  const some = times.slice(-PACED);
  if (some.length < 3) return times.length ? `${times.length} in this sitting` : "";
  const hours = (performance.now() - some[0]) / 3_600_000;
  return `${times.length} in this sitting, ${Math.round((some.length - 1) / hours)} an hour`;
}

// -- hands and keys

document.addEventListener("click", (event) => {
  const key = event.target.closest("button[data-key]")?.dataset.key;
  if (key) once(ACTS[key]);
});

find("edit").addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});

find("stop").addEventListener("click", () => {
  leaveEdit();
  find("case-title").focus();
});

find("correction").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    save();
  } else if (event.key === "Escape") {
    find("stop").click();
  }
});

document.addEventListener("keydown", (event) => {
  if (!find("keys").checked || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("textarea, select, input:not([type=radio], [type=checkbox])")) return;
  if (!find("edit").hidden) return;
  const key = event.key.toLowerCase();
  if (key === "u" && done.length) once(ACTS.u);
  else if (!current) return;
  else if (/^[1-9]$/.test(key)) choose(Number(key) - 1);
  else if (ACTS[key]) once(ACTS[key]);
  else return;
  event.preventDefault();
});

find("look").addEventListener("click", () => once(() => advance()));
find("again").addEventListener("click", () => {
  skipped.clear();
  once(() => advance());
});

// -- keeping the case, and letting go of it

setInterval(async () => {
  if (!current || busy || document.hidden) return;
  const wanted = current.id;
  try {
    const again = await next(wanted);
    if (current?.id !== wanted || busy || again.case?.id === wanted) return;
    show(again);
    find("outcome").textContent = "That case was decided elsewhere; here is the next.";
  } catch { /* the next act tells what is wrong */ }
}, 120_000);

addEventListener("pagehide", () => {
  if (current) call(`/v1/failures/${current.id}/release`, { holder }, "POST", true).catch(() => {});
});
addEventListener("pageshow", (event) => {
  if (event.persisted) once(() => advance());
});

once(() => advance());
