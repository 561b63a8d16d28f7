// What somebody changed in a text, word by word: the longest words in common stay, the rest is gone or new.

const MOST_CELLS = 4_000_000;  // about 2,000 words against 2,000; beyond that the middle is told as replaced

// Pieces of both texts in order, each with what became of it: same, gone or new.
export function difference(before, after) {
  const [old, now] = [words(before), words(after)];
  let start = 0;
  while (start < Math.min(old.length, now.length) && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < Math.min(old.length, now.length) - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  const pieces = [];
  add(pieces, "same", old.slice(0, start).join(""));
  middle(pieces, old.slice(start, old.length - end), now.slice(start, now.length - end));
  add(pieces, "same", old.slice(old.length - end).join(""));
  return pieces;
}

export function showDifference(place, before, after) {
  place.replaceChildren(...difference(before, after).map(([kind, text]) => {
    const element = document.createElement({ same: "span", gone: "del", new: "ins" }[kind]);
    element.textContent = text;
    return element;
  }));
}

function words(text) {
  return text.match(/\s+|[\p{L}\p{M}\p{N}_]+|[^\s]/gu) ?? [];
}

function middle(pieces, old, now) {
  const width = now.length + 1;
  if (old.length * now.length > MOST_CELLS) {
    add(pieces, "gone", old.join(""));
    add(pieces, "new", now.join(""));
    return;
  }
  const common = new Uint16Array((old.length + 1) * width);
  for (let row = old.length - 1; row >= 0; row -= 1) {
    for (let column = now.length - 1; column >= 0; column -= 1) {
      common[row * width + column] = old[row] === now[column]
        ? common[(row + 1) * width + column + 1] + 1
        : Math.max(common[(row + 1) * width + column], common[row * width + column + 1]);
    }
  }
  let [row, column] = [0, 0];
  while (row < old.length || column < now.length) {
    if (row < old.length && column < now.length && old[row] === now[column]) {
      add(pieces, "same", old[row]);
      row += 1;
      column += 1;
    } else if (row < old.length && (column === now.length || common[(row + 1) * width + column] >= common[row * width + column + 1])) {
      add(pieces, "gone", old[row]);
      row += 1;
    } else {
      add(pieces, "new", now[column]);
      column += 1;
    }
  }
}

function add(pieces, kind, text) {
  if (!text) return;
  const last = pieces.at(-1);
  if (last?.[0] === kind) last[1] += text;
  else pieces.push([kind, text]);
}
