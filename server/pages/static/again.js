// A page of something that goes on looks again by itself, but not under the hands of somebody who writes in it, and not
// while it shows what would be gone.

const wait = Number(document.querySelector("[data-again]")?.dataset.again ?? 1.5) * 1000;

function again() {
  const fields = [...document.querySelectorAll("input, textarea, select")];
  const written = fields.some((field) => field.checked !== field.defaultChecked || (field.defaultValue ?? field.value) !== field.value || field === document.activeElement);
  if (written || document.hidden || document.querySelector("[data-keep]:not([hidden])")) setTimeout(again, wait);
  else location.reload();
}

setTimeout(again, wait);
