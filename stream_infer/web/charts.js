// Elements and small charts, drawn without styles in attributes: the page's policy forbids those.

const SVG = "http://www.w3.org/2000/svg";

// Returns an element with these attributes; children are elements or texts, and texts stay texts.
export function element(name, attributes = {}, ...children) {
  return build(document.createElement(name), attributes, children);
}

// Returns a bar of p50, p95 and p99 with a mark at the budget.
export function latencyBar({ p50, p95, p99, budget }, label) {
  const scale = 100 / (Math.max(p99 ?? 0, budget) * 1.15);
  const isOver = p99 > budget;
  const parts = [["p99", p99], ["p95", p95], ["p50", p50]].map(([name, value]) =>
    shape("rect", { class: name, x: 0, y: 3, width: (value ?? 0) * scale, height: 10 }));
  return picture(100, 16, `bar${isOver ? " over" : ""}`, label,
    shape("rect", { class: "track", x: 0, y: 3, width: 100, height: 10 }), ...parts,
    shape("line", { class: "mark", x1: budget * scale, x2: budget * scale, y1: 0, y2: 16 }));
}

// Returns the stages of one event side by side, with a mark at the budget.
export function stageBar(stages, total, budget, label) {
  const scale = 100 / Math.max(total, budget);
  let x = 0;
  const parts = Object.entries(stages).map(([name, seconds]) => {
    const part = shape("rect", { class: `stage ${name}`, x, y: 3, width: seconds * scale, height: 10 });
    x += seconds * scale;
    return part;
  });
  return picture(100, 16, "bar", label, ...parts,
    shape("line", { class: "mark", x1: budget * scale, x2: budget * scale, y1: 0, y2: 16 }));
}

// Returns a line of [time, value] over the last `seconds`; where a value is null it has a gap.
export function sparkline(points, seconds, label, limit = null) {
  const now = points.at(-1)?.[0] ?? 0;
  const most = highest(points, limit);
  const place = ([time, value]) => [240 * (1 - (now - time) / seconds), 38 - 34 * (value / most)];
  const lines = limit === null ? [] : [level("limit", 38 - 34 * (limit / most))];
  return picture(240, 40, "spark", label, level("base", 38), ...lines,
    ...runs(points).map((run) => run.map(place)).flatMap((places) => [
      shape("path", { class: "area", d: `${pathOf(places)}V38H${places[0][0]}Z` }),
      shape("path", { class: "trace", d: pathOf(places) })]));
}

function highest(points, limit) {
  return Math.max(...points.map(([, value]) => value ?? 0), limit ?? 0) || 1;
}

// Cuts the points into runs without gaps.
function runs(points) {
  const found = [[]];
  for (const point of points) {
    if (point[1] === null) found.push([]);
    else found.at(-1).push(point);
  }
  return found.filter((run) => run.length > 0);
}

// A single point becomes a dot: a line too short to see but for its round ends.
function pathOf(places) {
  const path = places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  return `M${path}${places.length === 1 ? "h.01" : ""}`;
}

function level(name, y) {
  return shape("line", { class: name, x1: 0, x2: 240, y1: y, y2: y });
}

function picture(width, height, name, label, ...children) {
  const attributes = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: name };
  return shape("svg", { ...attributes, role: "img", "aria-label": label }, ...children);
}

function shape(name, attributes, ...children) {
  return build(document.createElementNS(SVG, name), attributes, children);
}

function build(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
