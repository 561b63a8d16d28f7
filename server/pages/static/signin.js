// A page that is closed to who looks at it: a key of the right scope opens it where it stands.

import { call, find, tell } from "/static/page.js";

find("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const outcome = form.querySelector(".outcome");
  const button = form.querySelector("button");
  const key = find("key").value.trim();
  find("key").value = "";
  button.disabled = true;
  outcome.classList.remove("bad");
  outcome.textContent = "";
  try {
    await call("/session", { key });
    location.reload();
  } catch (problem) {
    outcome.classList.add("bad");
    tell(outcome, problem.message);
    button.disabled = false;
    find("key").focus();
  }
});
