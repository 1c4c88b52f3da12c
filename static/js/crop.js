// The crop box: drag it, drag a corner, use the arrow keys, or type the four numbers. All are the same four fields.

const SMALLEST = 5; // percent
const NAMES = ["x", "y", "w", "h"];
const form = () => document.getElementById("query");
const box = () => document.querySelector("[data-crop-box]");
const fields = () => NAMES.map((name) => form()?.elements[`crop_${name}`]);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function read() {
  return fields().map((field, index) => {
    const value = Number.parseFloat(field.value);
    return Number.isFinite(value) ? value : [0, 0, 100, 100][index];
  });
}

function draw() {
  if (!box()) return;
  const [x, y, w, h] = read();
  Object.assign(box().style, { left: `${x}%`, top: `${y}%`, width: `${w}%`, height: `${h}%`, right: "auto", bottom: "auto" });
}

function write([x, y, w, h]) {
  w = clamp(w, SMALLEST, 100);
  h = clamp(h, SMALLEST, 100);
  const values = [clamp(x, 0, 100 - w), clamp(y, 0, 100 - h), w, h];
  fields().forEach((field, index) => (field.value = String(Math.round(values[index] * 10) / 10)));
  draw();
}

function again() {
  if (form()?.checkValidity()) htmx.trigger(form(), "search-now");
}

// Where each edge may go: the opposite edge stays where it is.
function resized([x, y, w, h], edge, dx, dy) {
  if (edge === "move") return [x + dx, y + dy, w, h];
  const left = edge.includes("w") ? clamp(x + dx, 0, x + w - SMALLEST) : x;
  const top = edge.includes("n") ? clamp(y + dy, 0, y + h - SMALLEST) : y;
  const right = edge.includes("e") ? clamp(x + w + dx, x + SMALLEST, 100) : x + w;
  const bottom = edge.includes("s") ? clamp(y + h + dy, y + SMALLEST, 100) : y + h;
  return [left, top, right - left, bottom - top];
}

document.addEventListener("pointerdown", (event) => {
  const target = event.target.closest?.("[data-crop-box]");
  if (!target || event.button !== 0) return;
  event.preventDefault();
  target.focus();
  target.setPointerCapture(event.pointerId);
  const frame = target.parentElement.getBoundingClientRect();
  const percent = (move) => [((move.clientX - frame.left) / frame.width) * 100, ((move.clientY - frame.top) / frame.height) * 100];
  let before = read();
  let edge = event.target.closest("[data-edge]")?.dataset.edge || "move";
  const from = percent(event);
  if (edge === "move" && before[2] > 99 && before[3] > 99) {
    before = [from[0], from[1], 0, 0]; // nothing to move yet: draw a new box from here
    edge = "draw";
  }
  const move = (moved) => {
    const [px, py] = percent(moved).map((value) => clamp(value, 0, 100));
    if (edge === "draw") write([Math.min(px, from[0]), Math.min(py, from[1]), Math.abs(px - from[0]), Math.abs(py - from[1])]);
    else write(resized(before, edge, px - from[0], py - from[1]));
  };
  const end = (ended) => {
    target.removeEventListener("pointermove", move);
    if (Math.hypot(ended.clientX - event.clientX, ended.clientY - event.clientY) > 2) again();
  };
  target.addEventListener("pointermove", move);
  target.addEventListener("pointerup", end, { once: true });
  target.addEventListener("pointercancel", end, { once: true });
});

document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.("[data-crop-box]")) return;
  const steps = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  write(resized(read(), event.shiftKey ? "se" : "move", ...step));
  again();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[name=crop_to]");
  if (!button) return;
  event.preventDefault();
  const [x, y, w, h] = read();
  write(button.value === "whole" ? [0, 0, 100, 100] : [x + w * 0.1, y + h * 0.1, w * 0.8, h * 0.8]);
  again();
});

document.addEventListener("input", (event) => event.target.name?.startsWith("crop_") && draw());
document.addEventListener("crop-whole", () => write([0, 0, 100, 100]));
document.addEventListener("photo-shown", draw);
draw();
