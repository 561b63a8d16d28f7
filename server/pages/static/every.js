// On every page: times in the reader's zone, tables that scroll reachable by key, and the session's end. The zone goes along as
// a cookie, as days are cut where the page is made.

import { call, find, tellTime } from "/static/page.js";

const seen = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

// Also for what comes into the page later.
export function dress(part) {
  for (const time of part.querySelectorAll("time[datetime]")) tellTime(time);
  for (const wide of part.querySelectorAll(".scroll, pre")) seen.observe(wide);
}

dress(document);

const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
const known = () => document.cookie.split("; ").includes(`starloop-zone=${timeZone}`);

if (timeZone && !known()) {
  document.cookie = `starloop-zone=${timeZone}; path=/; max-age=31536000; samesite=strict`;
  const cut = document.querySelector("[data-zone]")?.dataset.zone;
  if (cut && cut !== timeZone && known()) location.reload();  // once: now it is known
}

// A session that ends in one tab takes what it showed from all others, too.
const session = new BroadcastChannel("starloop-session");
session.addEventListener("message", () => location.reload());

find("leave")?.addEventListener("click", async () => {
  try {
    await call("/session", undefined, "DELETE");
  } finally {
    session.postMessage("over");
    location.reload();
  }
});
