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

// What llcuda's messages say to programs, in the words of this page.
const SPOKEN = [
  [/\bdevice="cpu"/g, "“CPU”"],
  [/\bdevice="auto"/g, "“Automatic”"],
  [/\bdevice="cuda(:\d+)?"/g, "“GPU”"],
  [/\b(fewer )?gpu_layers(=\d+)?/g, "$1layers on the GPU"],
  [/\bctx_size(=\d+)?/g, "context"],
  [/Install one: llcuda gpu install/g, "“Enable GPU” installs one."],
];

export const speak = (text) => SPOKEN.reduce((said, [pattern, words]) => said.replace(pattern, words), text ?? "");

export function sentence(text) {
  const said = speak(text);
  return said.charAt(0).toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".");
}

const REASONS = {
  admin_only: "they need an administrator's key",
  bad_answer: "a worker's answer could not be read",
  context_length_exceeded: "they were longer than the model's context",
  deadline: "their time would have been over before their turn",
  fatal_request: "they had ended two workers",
  foreign_origin: "a page of another site asked",
  internal_error: "the gateway failed",
  invalid_api_key: "they had no key that is known",
  invalid_value: "a value could not be used",
  model_not_found: "there is no such model",
  not_found: "there is no such address",
  queue_full: "the queue was full",
  schema_mismatch: "the answer did not match the schema",
  stopping: "the gateway was about to end",
  too_many_in_flight: "their key had too many under way",
  too_many_tokens: "they were too long for the queue",
  too_slow: "they took too long",
  unavailable: "no worker could answer",
  unknown_host: "they asked for another host",
  worker_failed: "a worker failed",
};

export const explain = (reason) => REASONS[reason] ?? `of: ${reason.replaceAll("_", " ")}`;

export function setLines(list, texts) {
  while (list.children.length > texts.length) list.lastElementChild.remove();
  while (list.children.length < texts.length) list.append(make("li"));
  texts.forEach((text, index) => setText(list.children[index], text));
}

export function setResult(node, text, kind = "") {
  setText(node, text);
  node.dataset.kind = kind;
}
