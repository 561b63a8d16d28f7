// On every page: times in the reader's zone, and tables that scroll reachable by key.

import { tellTime } from "/static/page.js";

for (const time of document.querySelectorAll("time[datetime]")) tellTime(time);

const seen = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const part of document.querySelectorAll(".scroll, pre")) seen.observe(part);
