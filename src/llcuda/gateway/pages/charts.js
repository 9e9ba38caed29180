// Three small charts of the last two minutes, drawn as SVG.

import { find, make, milliseconds, number, setText } from "./words.js";

const SPACE = "http://www.w3.org/2000/svg";
const SECONDS = 120;
const WIDTH = 240;
const HEIGHT = 48;
const MARGIN = 3;

const CHARTS = [
  {
    name: "Tokens per second",
    unit: number,
    lines: [{ read: (recent) => recent.seconds.tokens_per_second, isFilled: true }],
    value: (recent) => number(recent.tokens_per_second),
    note: () => "of all models",
  },
  {
    name: "Time to first token",
    unit: milliseconds,
    lines: [{ read: (recent) => recent.seconds.first_token_ms }],
    value: (recent) => milliseconds(recent.first_token_p50_ms),
    note: (recent) =>
      recent.first_token_p95_ms === null ? "no request within a minute" : `95 % within ${milliseconds(recent.first_token_p95_ms)}`,
  },
  {
    name: "Requests under way",
    unit: number,
    lines: [{ read: (recent) => recent.seconds.busy, isFilled: true }, { read: (recent) => recent.seconds.waiting, kind: "second" }],
    value: (recent) => number(recent.seconds.busy.at(-1) ?? 0),
    note: (recent) => `${number(recent.seconds.waiting.at(-1) ?? 0)} waiting in the queue`,
  },
];

const drawn = CHARTS.map(makeTile);

function makeTile(chart) {
  const value = make("span", { class: "value" });
  const note = make("span", { class: "muted" });
  const most = make("span", { class: "most" });
  const image = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const lines = chart.lines.map(({ isFilled, kind }) => {
    const area = isFilled ? draw("path", { class: "area" }) : null;
    const line = draw("path", { class: `line ${kind ?? ""}` });
    image.append(...(area ? [area, line] : [line]));
    return { area, line };
  });
  const tile = make(
    "figure",
    { class: "card tile" },
    make("figcaption", {}, chart.name),
    make("div", { class: "figure" }, value, note),
    most,
    image,
    make("div", { class: "axis", "aria-hidden": "true" }, make("span", {}, "2 min ago"), make("span", {}, "now")),
  );
  find("tiles").append(tile);
  return { chart, value, note, most, image, lines };
}

function draw(tag, attributes) {
  const node = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export function showCharts(recent) {
  for (const { chart, value, note, most, image, lines } of drawn) {
    setText(value, chart.value(recent));
    setText(note, chart.note(recent));
    const series = chart.lines.map(({ read }) => read(recent));
    const top = Math.max(0, ...series.flat().filter((point) => point !== null));
    setText(most, top ? `max ${chart.unit(top)}` : "");
    const said = top ? `${chart.value(recent)} now, at most ${chart.unit(top)} in the last two minutes` : "nothing in the last two minutes";
    image.setAttribute("aria-label", `${chart.name}: ${said}`);
    series.forEach((points, index) => showLine(lines[index], index && !Math.max(...points) ? [] : points, top));
  }
}

function showLine({ area, line }, points, top) {
  const pieces = findPieces(points, top);
  line.setAttribute("d", pieces.map(([first, ...rest]) => `M${first} L${(rest.length ? rest : [first]).join(" L")}`).join(" "));
  if (area) {
    const bottom = HEIGHT - MARGIN;
    const closed = pieces.map((piece) => `M${xOf(piece[0])} ${bottom} L${piece.join(" L")} L${xOf(piece.at(-1))} ${bottom} Z`);
    area.setAttribute("d", closed.join(" "));
  }
}

// Seconds without a value part a line into pieces; the last second is at the right edge.
function findPieces(points, top) {
  const pieces = [[]];
  points.forEach((point, index) => {
    const x = WIDTH - ((points.length - 1 - index) * WIDTH) / (SECONDS - 1);
    const y = HEIGHT - MARGIN - (top ? (point / top) * (HEIGHT - 2 * MARGIN) : 0);
    if (point === null) pieces.push([]);
    else pieces.at(-1).push(`${x.toFixed(1)} ${y.toFixed(1)}`);
  });
  return pieces.filter((piece) => piece.length);
}

function xOf(point) {
  return point.split(" ")[0];
}
