// On every page: times in the reader's zone, and tables that scroll reachable by key.

import { tellTime } from "/static/page.js";

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
