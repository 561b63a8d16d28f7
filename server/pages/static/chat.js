// The chat page: asks, shows what comes, and sends what the reader thinks of it. Everything that came from a model or
// a user is set as text, never as markup.

import { call, find, moment, part, stars } from "/static/page.js";

const RECENT = "/v1/inferences?limit=20";
const earlier = [];

// -- asking

async function ask(text) {
  const turn = find("turn").content.firstElementChild.cloneNode(true);
  const said = turn.querySelector(".said");
  turn.querySelector(".asked").textContent = text;
  find("turns").append(turn);
  turn.scrollIntoView({ block: "nearest" });
  const stream = find("stream").checked;
  const asked = { role: "user", content: text };
  const messages = find("remember").checked ? [...earlier, asked] : [asked];
  const started = performance.now();
  try {
    const response = await call("/v1/chat/completions", { model: find("model").value, messages, stream });
    let first = null;
    if (stream) {
      for await (const piece of pieces(response)) {
        first ??= performance.now() - started;
        said.textContent += piece;
      }
    } else {
      said.textContent = (await response.json()).choices[0].message.content ?? "";
    }
    earlier.push(asked, { role: "assistant", content: said.textContent });
    showFacts(turn, response, performance.now() - started, first);
    listen(turn, response.headers.get("x-starloop-inference-id"), response.headers.get("x-starloop-feedback-token"));
  } catch (problem) {
    said.textContent += said.textContent ? `\n${problem.message}` : problem.message;
    said.classList.add("bad");
    if (problem.status === 401) lock(problem.message);
  } finally {
    said.removeAttribute("aria-busy");
    setTimeout(refresh, 500);
  }
}

async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let whole = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done && whole) return;
    if (done) throw new Error("the answer ended too early");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      whole ||= data === "[DONE]";
      if (whole || !event.startsWith("data: ")) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices[0]?.delta?.content;
      if (piece) yield piece;
    }
  }
}

function showFacts(turn, response, total, first) {
  const captured = response.headers.get("x-starloop-captured") === "true";
  turn.querySelector(".version").textContent = response.headers.get("x-starloop-version");
  turn.querySelector(".latency").textContent =
    `${Math.round(total)} ms${first === null ? "" : `, first words after ${Math.round(first)} ms`}${captured ? "" : ", not captured"}`;
  turn.querySelector(".facts").hidden = false;
}

// -- saying what one thinks of it

function listen(turn, inference, token) {
  const form = turn.querySelector(".opinion");
  const name = `rating-${inference}`;
  for (const stars of [1, 2, 3, 4, 5]) {
    const input = Object.assign(document.createElement("input"), { type: "radio", name, value: stars, id: `${name}-${stars}` });
    const label = document.createElement("label");
    label.htmlFor = input.id;
    label.title = `${stars} of 5`;
    const words = document.createElement("span");
    words.textContent = `${stars} of 5 stars`;
    label.append(words);
    form.querySelector(".rate").append(input, label);
  }
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const outcome = form.querySelector(".outcome");
    const chosen = form.querySelector("input:checked");
    const correction = form.querySelector(".correction").value.trim();
    if (!chosen && !correction) {
      outcome.textContent = "Choose stars, or write what it should have said.";
      return;
    }
    const body = { inference_id: inference, feedback_token: token };
    if (chosen) body.rating = Number(chosen.value);
    if (correction) body.correction = correction;
    try {
      await call("/v1/feedback", body);
      outcome.textContent = "Thank you, it is kept.";
      setTimeout(refresh, 500);
    } catch (problem) {
      outcome.textContent = problem.message;
    }
  });
}

// -- what was asked lately

async function refresh() {
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
  find("lock-problem").textContent = message;
  find("lock").hidden = false;
  find("desk").hidden = true;
}

find("lock").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = find("key").value.trim();
  find("key").value = "";
  try {
    await call("/session", { key });
    location.reload();
  } catch (problem) {
    lock(problem.message);
  }
});

find("leave")?.addEventListener("click", async () => {
  try {
    await call("/session", undefined, "DELETE");
  } finally {
    location.reload();
  }
});

find("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("ask").requestSubmit();
  }
});

find("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = find("message").value.trim();
  if (!text) return;
  const button = find("ask").querySelector("button");
  find("message").value = "";
  button.disabled = true;
  await ask(text);
  button.disabled = false;
  find("message").focus();
});
