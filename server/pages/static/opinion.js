// What the reader thinks of an answer: stars, a comment, a correction in its place, and whether it beat another one.
// Each word of a rater replaces the one before, so all that was said goes along every time.

import { call, tell } from "/static/page.js";
import { showDifference } from "/static/difference.js";

export class Opinion {
  constructor(answer, kept) {
    this.answer = answer;
    this.kept = kept;
    this.said = {};
    this.sending = Promise.resolve();
    this.form = answer.part(".opinion");
    this.editor = answer.part(".correct");
    this.field = answer.part(".right");
    this.addStars();
    this.form.hidden = false;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const comment = answer.part(".comment").value.trim();
      if (comment || this.said.rating) this.send(comment ? { comment } : {});
      else this.tell("Choose stars, or write a comment.");
    });
    answer.part(".edit").addEventListener("click", () => this.edit());
    answer.part(".cancel").addEventListener("click", () => this.leave());
    this.field.addEventListener("input", () => this.preview());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.leave();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.editor.requestSubmit();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.editor.addEventListener("submit", (event) => {
      event.preventDefault();
      this.correct();
    });
  }

  addStars() {
    const name = `rating-${this.answer.inference}`;
    for (const stars of [1, 2, 3, 4, 5]) {
      const input = Object.assign(document.createElement("input"), { type: "radio", name, value: stars, id: `${name}-${stars}` });
      const label = document.createElement("label");
      label.htmlFor = input.id;
      label.title = `${stars} of 5`;
      const words = document.createElement("span");
      words.textContent = `${stars} of 5 stars`;
      label.append(words);
      input.addEventListener("change", () => this.send({ rating: stars }));
      this.answer.part(".rate").append(input, label);
    }
  }

  rate(stars) {
    const input = this.form.querySelectorAll(".rate input")[stars - 1];
    input.checked = true;
    return this.send({ rating: stars });
  }

  prefer(other) {
    return this.send({ preferred_over: other.inference });
  }

  // One after the other, so that the last word is the one that stays. Whether it was kept.
  send(change) {
    this.sending = this.sending.then(async () => {
      const said = { ...this.said, ...change };
      try {
        await call("/v1/feedback", { inference_id: this.answer.inference, feedback_token: this.answer.token, ...said });
        this.said = said;
        this.tell("Thank you, it is kept.");
        this.kept();
        return true;
      } catch (problem) {
        this.tell(problem.message, true);
        return false;
      }
    });
    return this.sending;
  }

  tell(text, bad = false) {
    const outcome = this.form.querySelector(".outcome");
    tell(outcome, text);
    outcome.classList.toggle("bad", bad);
  }

  // -- the answer, edited where it stands

  edit() {
    if (!this.editor.hidden) return;
    this.field.value = this.said.correction ?? this.answer.text;
    this.answer.said.hidden = true;
    this.editor.hidden = false;
    this.preview();
    this.field.focus();
  }

  preview() {
    showDifference(this.editor.querySelector(".difference"), this.answer.text, this.field.value);
  }

  leave() {
    this.editor.hidden = true;
    this.answer.said.hidden = false;
    this.answer.section.focus();
  }

  async correct() {
    const correction = this.field.value.trim();
    if (!correction) return this.tell("A correction says what the answer should have been.", true);
    if (correction === this.answer.text.trim()) return this.tell("That is the answer as it was.", true);
    if (!(await this.send({ correction }))) return;
    showDifference(this.answer.said, this.answer.text, correction);
    this.answer.part(".changed").hidden = false;
    this.leave();
  }
}
