// Forms that change something: their fields go as JSON to an address of the API, with what shows that our own page asks.
// Also those that a page which follows what goes on brings later.

import { call, tell } from "/static/page.js";

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form.act")) return;
  event.preventDefault();
  const outcome = form.querySelector(".outcome");
  const button = form.querySelector("button");
  const fields = Object.fromEntries(
    [...new FormData(form)]
      .filter(([, value]) => value.trim() !== "")
      .map(([name, value]) => [name, form.elements[name].dataset?.json === undefined ? value : JSON.parse(value)]),
  );
  const address = form.dataset.asQuery === undefined ? form.dataset.to : `${form.dataset.to}?${new URLSearchParams(fields)}`;
  button.disabled = true;
  outcome.classList.remove("bad");
  outcome.textContent = "Under way …";
  try {
    const response = await call(address, form.dataset.asQuery === undefined ? fields : undefined, "POST");
    if (form.dataset.then) location.assign(form.dataset.then + encodeURIComponent((await response.json()).id));
    else location.reload();
  } catch (problem) {
    outcome.classList.add("bad");
    tell(outcome, problem.message);
    button.disabled = false;
  }
});
