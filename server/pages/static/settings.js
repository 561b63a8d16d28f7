// Keys: made, shown once, revoked.

import { call, find, tell } from "/static/page.js";

const form = find("new-key");

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const outcome = form.querySelector(".outcome");
  const button = form.querySelector("button");
  const fields = new FormData(form);
  const limits = Object.fromEntries(["rpm", "tpm", "concurrent"].filter((name) => fields.get(name)).map((name) => [name, Number(fields.get(name))]));
  const wanted = { scopes: fields.getAll("scopes"), owner: fields.get("owner") };
  outcome.classList.add("bad");
  if (!wanted.scopes.length) {
    outcome.textContent = "Choose what it may.";
    return;
  }
  if (fields.getAll("models").length) wanted.models = fields.getAll("models");
  if (fields.get("expires").trim()) wanted.expires = fields.get("expires").trim();
  if (Object.keys(limits).length) wanted.limits = limits;
  button.disabled = true;
  outcome.textContent = "";
  try {
    const { secret } = await (await call("/v1/keys", wanted)).json();
    find("secret").textContent = secret;
    find("made").hidden = false;
    form.hidden = true;
    find("secret").focus();
  } catch (problem) {
    tell(outcome, problem.message);
  } finally {
    button.disabled = false;
  }
});

find("copy")?.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(find("secret").textContent);
    find("copy").textContent = "Copied";
  } catch {  // a page that was not fetched over TLS has no clipboard: at least mark it
    getSelection().selectAllChildren(find("secret"));
  }
});

find("kept")?.addEventListener("click", () => location.reload());

for (const button of document.querySelectorAll("[data-revoke]")) {
  button.addEventListener("click", async () => {
    if (!confirm(`Revoke the key of ${button.closest("li").querySelector("strong").textContent}? It cannot be opened again.`)) return;
    button.disabled = true;
    find("key-problem").textContent = "";
    try {
      await call(`/v1/keys/${button.dataset.revoke}/revoke`, undefined, "POST");
      location.reload();
    } catch (problem) {
      tell(find("key-problem"), problem.message);
      button.disabled = false;
    }
  });
}
