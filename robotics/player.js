"use strict";
const data = JSON.parse(document.getElementById("recording").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const FRAMES_PER_SECOND = 20;
const LEAST = 1e-8;  // the left end of the bars
const COLOURS = data.colours;
const reach = data.arm.lengths.reduce((a, b) => a + b, 0);
const track = data.kind === "track";  // then a tick is what a layer else is
const word = track ? "Tick" : "Layer";
const numberOf = (k) => `${word} ${track ? k : k + 1}`;  // ticks count from 0, as in track.csv; layers from 1
const place = (k) => numberOf(k) + (track ? ` / ${data.layers.length - 1}` : ` of ${data.layers.length}`);
let frame = 0;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

function html(name, className, text, parent) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// --- kinematics -----------------------------------------------------------------------------------
function posture(number) {
  const [k, s] = data.frames[number], layer = data.layers[k];
  return layer.start.map((angle, i) => angle + s * (layer.end[i] - angle));
}

function points(theta) {
  const chain = [[0, 0]];
  let phi = 0;
  theta.forEach((angle, i) => {
    phi += angle;
    const [x, y] = chain[i];
    chain.push([x + data.arm.lengths[i] * Math.cos(phi), y + data.arm.lengths[i] * Math.sin(phi)]);
  });
  return chain;
}

const text = (chain) => chain.map(([x, y]) => `${x},${y}`).join(" ");

// --- the scene: metres, y upwards -----------------------------------------------------------------
const bound = 1.08 * reach, thin = reach / 320;
const inView = (x) => Math.min(Math.max(x, -1.03 * reach), 1.03 * reach);
const scene = byId("scene");
scene.setAttribute("viewBox", `${-bound} ${-bound} ${2 * bound} ${2 * bound}`);
const world = element("g", { transform: "scale(1,-1)" }, scene);
const backdrop = element("g", {}, world);
const planes = element("g", { id: "planes" }, world);
const trail = element("polyline", { fill: "none", stroke: "var(--tip)", "stroke-width": 2 * thin, "stroke-linejoin": "round" }, world);
const start = element("polyline", { fill: "none", stroke: "var(--arm)", "stroke-width": 1.6 * thin, "stroke-dasharray": `${5 * thin} ${4 * thin}`, opacity: 0.6 }, world);
const body = element("polyline", { id: "arm", fill: "none", stroke: "var(--arm)", "stroke-width": Math.max(4 * thin, 2 * data.arm.link_radius), "stroke-linecap": "round", "stroke-linejoin": "round" }, world);
const joints = element("g", { id: "joint-dots" }, world);
const marks = element("g", {}, world);
const labels = element("g", { "font-family": "system-ui, sans-serif" }, scene);

function label(x, y, content, attributes = {}) {
  element("text", { x, y: -y, ...attributes }, labels).textContent = content;
}

function drawBackdrop() {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((size) => reach / size <= 4) || reach / 4;
  for (let i = -Math.floor(bound / step); i * step <= bound; i++) {
    const at = i * step, style = { stroke: "var(--grid)", "stroke-width": thin / 1.5 };
    element("line", { x1: at, x2: at, y1: -bound, y2: bound, ...style }, backdrop);
    element("line", { y1: at, y2: at, x1: -bound, x2: bound, ...style }, backdrop);
    const last = (i + 1) * step > 0.94 * bound ? " m" : "";
    const name = String(Number(at.toPrecision(3))).replace("-", "\u2212") + last, edge = bound - 3 * thin;
    if (Math.abs(at) <= 0.94 * bound) {
      label(at, -edge, name, { "text-anchor": "middle", fill: "var(--soft)" });
      if (i) label(-edge, at - 3 * thin, name, { fill: "var(--soft)" });
    }
  }
  element("circle", { r: reach, fill: "none", stroke: "var(--soft)", "stroke-width": thin, "stroke-dasharray": `${thin} ${3 * thin}` }, backdrop);
  data.circles.forEach(([cx, cy, r], i) => {
    element("circle", { cx, cy, r, fill: "var(--circle)", stroke: "var(--soft)", "stroke-width": 1.2 * thin }, backdrop);
    label(cx, cy - 4 * thin, i, { "text-anchor": "middle", fill: "var(--ink)" });
  });
  element("rect", { x: -4 * thin, y: -4 * thin, width: 8 * thin, height: 8 * thin, fill: "var(--ink)" }, backdrop);
  if (track) {
    const path = data.layers.filter((tick) => tick.target).map((tick) => tick.target.slice(0, 2).map(inView));
    element("polyline", { id: "wanted", points: text(path), fill: "none", stroke: "var(--ink)", "stroke-width": thin, "stroke-dasharray": `${4 * thin} ${3 * thin}` }, backdrop);
  }
  start.setAttribute("points", text(points(data.layers[0].start)));
}

// A cross, with the orientation where there is one; at the edge of the picture if the target is farther out.
function drawTarget(target) {
  marks.replaceChildren();
  labels.querySelectorAll("#far").forEach((old) => old.remove());
  if (!target) return;
  const [tx, ty, turn] = target, [x, y] = [inView(tx), inView(ty)];
  const arm = 5 * thin, style = { stroke: "var(--target)", "stroke-width": 2.4 * thin };
  if (x !== tx || y !== ty) {
    const anchor = x > 0 ? "end" : "start", below = y > 0 ? -16 : 10;
    label(x, y + below * thin, `target, farther out: (${tx}, ${ty})`.replaceAll("-", "\u2212"), { id: "far", "text-anchor": anchor, fill: "var(--target)" });
  }
  element("line", { x1: x - arm, y1: y - arm, x2: x + arm, y2: y + arm, ...style }, marks);
  element("line", { x1: x - arm, y1: y + arm, x2: x + arm, y2: y - arm, ...style }, marks);
  if (turn !== undefined) {
    element("line", { x1: x, y1: y, x2: x + 18 * thin * Math.cos(turn), y2: y + 18 * thin * Math.sin(turn), ...style }, marks);
  }
}

// A half-plane is drawn near its circle: the border as a line, the side that it forbids as a band.
function drawPlanes(k) {
  planes.replaceChildren();
  labels.querySelectorAll(".plane").forEach((old) => old.remove());
  if (!byId("show-planes").checked) return;
  for (const plane of data.layers[k].planes) {
    if (!plane.active && !byId("show-inactive").checked) continue;
    const [nx, ny] = plane.normal, [cx, cy, r] = data.circles[plane.circle];
    const toBorder = plane.offset - (nx * cx + ny * cy), half = r + 0.3 * reach, depth = 0.05 * reach;
    const foot = [cx + toBorder * nx, cy + toBorder * ny];
    const at = (along, behind) => [foot[0] - along * ny - behind * nx, foot[1] + along * nx - behind * ny];
    const colour = plane.active ? COLOURS[plane.link % COLOURS.length] : "#9a9a9a";
    const shape = element("g", { class: "plane", "data-link": plane.link, "data-circle": plane.circle, "data-active": plane.active }, planes);
    element("polygon", { points: text([at(-half, 0), at(half, 0), at(half, depth), at(-half, depth)]), fill: colour, opacity: plane.active ? 0.22 : 0.08 }, shape);
    const [a, b] = [at(-half, 0), at(half, 0)];
    element("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1], stroke: colour, "stroke-width": plane.active ? 1.8 * thin : thin }, shape);
    if (plane.active) {
      const end = [b, a].find(([x, y]) => Math.hypot(x, y) < reach) || b;
      const away = end === b ? at(half + 4 * thin, 0) : at(-half - 4 * thin, 0);
      label(away[0], away[1] - 3 * thin, `link ${plane.link + 1}`, { class: "plane", "text-anchor": "middle", fill: colour, stroke: "var(--paper)", "stroke-width": 3 * thin, "paint-order": "stroke" });
    }
  }
}

// --- the panel ------------------------------------------------------------------------------------
const names = [...new Set(data.layers.flatMap((layer) => Object.keys(layer.multipliers)))]
  .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
const most = Math.max(10 * LEAST, ...data.layers.flatMap((layer) => Object.values(layer.multipliers)));
const share = (value) => value > LEAST ? Math.log(value / LEAST) / Math.log(most / LEAST) : 0;
const short = (value) => value === null ? "\u221e" : Math.abs(value) >= 1e-3 || value === 0 ? value.toFixed(4) : value.toExponential(1);

const subscript = (digits) => [...digits].map((digit) => String.fromCharCode(0x2080 + Number(digit))).join("");
const jointName = (i) => `\u03b8${subscript(String(i + 1))}`;
const fixed = (value, digits) => value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212");

function drawPanel(k, theta) {
  const layer = data.layers[k];
  const kind = track ? layer.status.toLowerCase().replaceAll("_", " ") : layer.certified ? "certified step" : "softened step out of a circle";
  byId("layer").textContent = `${place(k)}: ${kind}`;
  const facts = [[track ? "tip error after it" : "task error after it", layer.error === null ? "no target" : `${layer.error.toExponential(2)} of reach`],
    ["clearance after it", layer.clearance === null ? "no circles" : `${short(layer.clearance)} m`],
    track ? ["what that means", layer.advice] : ["share of the step taken", layer.fraction.toFixed(3)]];
  byId("facts").replaceChildren(...facts.flatMap(([name, value]) => [html("dt", "", name), html("dd", "", value)]));
  const bars = byId("bars");
  bars.replaceChildren();
  for (const name of names) {
    const value = layer.multipliers[name] || 0, row = html("div", value ? "bar" : "bar quiet", null, bars);
    row.dataset.name = name;
    row.dataset.value = value;
    html("span", "", name, row);
    const fill = html("div", "fill", null, html("div", "track", null, row)), link = name.match(/^link (\d+), circle/);
    fill.style.width = `${100 * share(value)}%`;
    if (link) fill.style.background = COLOURS[(link[1] - 1) % COLOURS.length];
    html("span", "", value ? short(value) : "0", row);
  }
  if (!names.length) html("div", "quiet", "none is active in any layer", bars);
  byId("multipliers").hidden = track || !byId("show-multipliers").checked;
  byId("joints").replaceChildren(...theta.map((angle, i) => {
    const [low, high] = data.arm.limits[i], row = html("div", "bar joint", null);
    html("span", "", `${jointName(i)} in [${fixed(low, 2)}, ${fixed(high, 2)}]`, row);
    html("div", "mark", null, html("div", "track", null, row)).style.left = `${high > low ? 100 * (angle - low) / (high - low) : 50}%`;
    html("span", "", fixed(angle, 4), row);
    return row;
  }));
}

const tips = data.frames.map((_, i) => points(posture(i)).at(-1));

function draw() {
  const [k] = data.frames[frame], theta = posture(frame), chain = points(theta);
  body.setAttribute("points", text(chain));
  joints.replaceChildren();
  for (const [cx, cy] of chain.slice(1)) {
    element("circle", { cx, cy, r: 3 * thin, fill: "var(--paper)", stroke: "var(--arm)", "stroke-width": 1.6 * thin }, joints);
  }
  const visible = byId("show-trail").checked ? "visible" : "hidden";
  trail.setAttribute("points", text(tips.slice(0, frame + 1)));
  trail.setAttribute("visibility", visible);
  start.setAttribute("visibility", visible);
  drawPlanes(k);
  drawTarget(track ? data.layers[k].target : data.target);
  drawPanel(k, theta);
  byId("slider").value = frame;
  byId("slider").setAttribute("aria-valuetext", `frame ${frame} of ${data.frames.length - 1}, ${numberOf(k).toLowerCase()}`);
  byId("frame").textContent = `${frame} / ${data.frames.length - 1}`;
}
