// What the scripts of all pages share. Everything that came from a model or a user is set as text, never as markup.

export const find = (id) => document.getElementById(id);

// The session is a cookie that no script can read; this other one shows that it is our own page that asks.
export function guard() {
  return document.cookie.match(/(?:^|; )starloop-csrf=([0-9a-f]+)/)?.[1] ?? "";
}

export async function call(path, body, method = body === undefined ? "GET" : "POST", keepalive = false, signal = undefined) {
  const options = { method, keepalive, signal };
  if (method !== "GET") options.headers = { "x-starloop-csrf": guard() };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  if (response.ok) return response;
  const problem = new Error(await problemOf(response));
  problem.status = response.status;
  throw problem;
}

// Why a request was refused. That a session has ended is told in words for who looks at a page: the API's speak of keys.
export async function problemOf(response) {
  if (response.status === 401 && !response.url.endsWith("/session")) {
    return "Your session has ended. Sign in again on the page Chat, in another tab, and try once more: what you wrote stays here.";
  }
  try {
    return (await response.json()).error.message;
  } catch {  // not an error object: the status must do
    return `the server answered with status ${response.status}`;
  }
}

export function part(kind, text, name = "") {
  const element = document.createElement(kind);
  element.textContent = text;
  element.className = name;
  return element;
}

// A sentence of the server, in which what stands between backticks is code.
export function tell(element, sentence) {
  element.replaceChildren(...sentence.split(/`([^`]+)`/).map((piece, place) => place % 2 ? part("code", piece) : piece));
}

export function stars(number) {
  const shown = part("span", "★".repeat(number) + "☆".repeat(5 - number), "stars");
  shown.setAttribute("role", "img");
  shown.setAttribute("aria-label", `${number} of 5 stars`);
  return shown;
}

// Times come in UTC; the page tells them in the reader's zone, and what they are in UTC when one points at them.

const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export function tellTime(time) {
  const when = new Date(time.dateTime);
  if (Number.isNaN(when.getTime())) return;
  time.textContent = ("clock" in time.dataset ? clock : day).format(when);
  time.title = `${when.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function moment(iso) {
  const time = part("time", iso);
  time.dateTime = iso;
  tellTime(time);
  return time;
}
