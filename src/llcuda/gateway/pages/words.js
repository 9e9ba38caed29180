// Numbers as people read them, and elements as the page makes them: texts only, never markup.

const SHORT_SECONDS = 10;

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(value < 10 && unit > 1 ? 1 : 0)} ${units[unit]}`;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1000) return `${number(value)} ms`;
  return `${(value / 1000).toFixed(value < SHORT_SECONDS * 1000 ? 1 : 0)} s`;
}

export function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const parts = [];
  let rest = seconds;
  for (const [name, size] of units) {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    if (whole && parts.length < 2) parts.push(`${whole} ${name}`);
  }
  return parts.join(" ") || "0 s";
}

export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

export function find(id) {
  return document.getElementById(id);
}

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Only what is new is written: what reads the page aloud, and a selection, are left in peace.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setList(list, pairs) {
  while (list.children.length > pairs.length) list.lastElementChild.remove();
  while (list.children.length < pairs.length) list.append(make("div", {}, make("dt"), make("dd")));
  pairs.forEach(([name, value], index) => {
    const [term, text] = list.children[index].children;
    setText(term, name);
    setText(text, value);
  });
}

export function setResult(node, text, kind = "") {
  setText(node, text);
  node.dataset.kind = kind;
}
