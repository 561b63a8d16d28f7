// A file of training rows, sent as it is: the browser reads it from the disk piece by piece.

import { find, guard, part, problemOf, tell } from "/static/page.js";

const form = find("upload");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const outcome = form.querySelector(".outcome");
  const button = form.querySelector("button");
  const fields = new FormData(form);
  const file = fields.get("file");
  const query = new URLSearchParams({ model: form.dataset.model, name: file.name, use: fields.get("use") });
  for (const name of ["format", "map"]) if (fields.get(name).trim()) query.set(name, fields.get(name).trim());
  if (fields.get("skip_bad")) query.set("skip_bad", "true");
  button.disabled = true;
  find("bad-rows").hidden = true;
  outcome.classList.remove("bad");
  outcome.textContent = "Being sent and checked …";
  try {
    const response = await fetch(`/v1/imports?${query}`, { method: "POST", headers: { "x-starloop-csrf": guard() }, body: file });
    const told = response.ok || response.status === 400 ? await response.json() : {};
    if (response.ok) {
      const { rows, bad } = told.imported;
      outcome.textContent = told.known ? "The same rows are there already; nothing was added." : `${rows} rows are in${bad ? `, ${bad} bad ones were left out` : ""}. The next dataset version learns from them.`;
      form.reset();
    } else {
      outcome.classList.add("bad");
      if (told.bad_rows) outcome.textContent = `${file.name}: ${told.bad_rows} bad and ${told.rows} good rows; nothing was imported. Mend them, or choose “Leave bad rows out”.`;
      else tell(outcome, told.error?.message ?? await problemOf(response));
    }
    show(file.name, told.bad ?? []);
  } catch (problem) {
    outcome.classList.add("bad");
    outcome.textContent = `The file did not arrive: ${problem.message}`;
  } finally {
    button.disabled = false;
  }
});

function show(name, bad) {
  find("bad-rows").hidden = !bad.length;
  find("bad-name").textContent = name;
  find("bad-rows").querySelector("tbody").replaceChildren(...bad.slice(0, 50).map((one) => {
    const row = document.createElement("tr");
    const problem = part("td", "", "prose");
    tell(problem, one.problem);
    row.append(part("td", one.line, "number"), part("td", one.field), problem);
    return row;
  }));
}
