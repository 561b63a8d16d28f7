// The page that shows the stars in use: asks for an answer, puts them under it, and tells what they tell.

import { call, find, tell } from "/static/page.js";

const form = find("try");

for (const place of document.querySelectorAll("[data-origin]")) place.textContent = location.origin;

find("copy")?.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(find("lines").textContent);
    find("copy").textContent = "Copied";
  } catch {  // a page that was not fetched over TLS has no clipboard: at least mark it
    getSelection().selectAllChildren(find("lines"));
  }
});

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const outcome = form.querySelector(".outcome");
  const button = form.querySelector("button");
  const fields = new FormData(form);
  const messages = [{ role: "user", content: fields.get("question") }];
  button.disabled = true;
  outcome.classList.remove("bad");
  outcome.textContent = "Under way …";
  try {
    const response = await call("/v1/chat/completions", { model: fields.get("model"), messages });
    find("said").textContent = (await response.json()).choices[0].message.content ?? "";
    show(response.headers.get("x-starloop-inference-id"), response.headers.get("x-starloop-feedback-token"));
    outcome.textContent = "";
  } catch (problem) {
    outcome.classList.add("bad");
    tell(outcome, problem.message);
  } finally {
    button.disabled = false;
  }
});

function show(inference, token) {
  const stars = document.createElement("star-rating");
  stars.setAttribute("inference-id", inference);
  stars.setAttribute("token", token);
  stars.addEventListener("rated", ({ detail }) => { find("heard").textContent = `rated, ${detail.stars} stars`; });
  stars.addEventListener("rating-failed", ({ detail }) => { find("heard").textContent = `rating-failed, ${detail.message}`; });
  find("stars").replaceChildren(stars);
  find("heard").textContent = "nothing yet";
  find("kept").href = `/inferences/${inference}`;
  for (const [name, value] of [["inference", inference], ["token", token]]) document.querySelector(`[data-fact=${name}]`).textContent = value;
  find("answered").hidden = false;
}
