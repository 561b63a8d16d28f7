// One answer of a conversation: asked for, shown as it comes, and stopped where its reader has seen enough.

import { call, find, tell } from "/static/page.js";

export class Answer {
  constructor(side = "") {
    this.section = find("answer").content.firstElementChild.cloneNode(true);
    this.said = this.part(".said");
    this.text = "";
    this.state = "coming";  // then whole, stopped or failed
    this.version = "";
    if (side) {
      this.part(".side").textContent = side;
      this.part(".side").hidden = false;
      this.section.setAttribute("aria-label", `Answer ${side}`);
    }
  }

  part(selector) {
    return this.section.querySelector(selector);
  }

  // Until it is whole, stopped by the signal, or failed; `problem` then says why. It never throws.
  async come(wanted, signal) {
    const started = performance.now();
    let first = null;
    let cut = false;
    let response = null;
    try {
      response = await call("/v1/chat/completions", wanted, "POST", false, signal);
      this.inference = response.headers.get("x-starloop-inference-id");
      this.token = response.headers.get("x-starloop-feedback-token");
      this.version = response.headers.get("x-starloop-version");
      if (wanted.stream) {
        for await (const { piece, reason } of pieces(response)) {
          if (piece) first ??= performance.now() - started;
          cut ||= reason === "length";
          this.say(piece);
        }
      } else {
        const [choice] = (await response.json()).choices;
        cut = choice.finish_reason === "length";
        this.say(choice.message.content ?? "");
      }
      this.state = "whole";
    } catch (problem) {
      this.state = signal.aborted ? "stopped" : "failed";
      if (!signal.aborted) this.fail(problem);
    }
    this.said.removeAttribute("aria-busy");
    if (response) this.tell(response, performance.now() - started, first, cut);
  }

  say(piece) {
    this.text += piece;
    this.said.append(piece);
  }

  fail(problem) {
    this.problem = problem;
    tell(this.part(".problem"), problem.message);
    this.part(".problem").hidden = false;
  }

  tell(response, total, first, cut) {
    const told = [`${Math.round(total)} ms`];
    if (first !== null) told[0] += `, first words after ${Math.round(first)} ms`;
    if (this.state === "stopped") told.push("stopped: it is kept as far as it came, and nothing is learned from it");
    if (cut) told.push("cut at its greatest length");
    if (response.headers.get("x-starloop-captured") !== "true") told.push("not captured");
    this.part(".version").textContent = this.version;
    this.part(".latency").textContent = told.join("; ");
    this.part(".kept").href = `/inferences/${this.inference}`;
  }

  // Which version it was, and how quick: at once, or after a blind choice.
  reveal() {
    this.part(".facts").hidden = !this.version;
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
      const [choice] = chunk.choices;
      if (choice) yield { piece: choice.delta?.content ?? "", reason: choice.finish_reason };
    }
  }
}
