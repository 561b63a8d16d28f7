// A page of something that goes on looks again by itself, but not under the hands of somebody who writes in it.

const wait = Number(document.querySelector("[data-again]")?.dataset.again ?? 1.5) * 1000;

function again() {
  const written = [...document.querySelectorAll("form.act input")].some((field) => field.value || field === document.activeElement);
  if (written || document.hidden) setTimeout(again, wait);
  else location.reload();
}

setTimeout(again, wait);
