// Single-key shortcuts: silent while someone types, and off for good when the help dialog says so.

const STORE = "shortcuts";
const help = document.getElementById("help");
const isOn = document.getElementById("keys-on");
const cards = () => [...document.querySelectorAll("[data-card]")];
const isTyping = (target) => target.matches("input:not([type=checkbox]), textarea, select, [contenteditable]");

try {
  isOn.checked = localStorage.getItem(STORE) !== "off";
} catch {
  // No storage: the shortcuts are simply on.
}
isOn.addEventListener("change", () => {
  try {
    localStorage.setItem(STORE, isOn.checked ? "on" : "off");
  } catch {
    // As above: the choice then lasts as long as the page.
  }
});

function focusCard(card) {
  card?.querySelector("[data-open]").focus();
}

function step(key) {
  const all = cards();
  const here = all.findIndex((card) => card.contains(document.activeElement));
  if (here < 0) return void focusCard(all[0]);
  const top = all[here].offsetTop;
  const row = all.filter((card) => card.offsetTop === top).length;
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
  focusCard(all[here + moves[key]]);
}

function openCrop() {
  const panel = document.getElementById("panel");
  if (panel) panel.open = true;
  document.querySelector("[data-crop-box]")?.focus();
}

const shortcuts = {
  "/": () => document.querySelector("[data-words]")?.focus(),
  "?": () => help.showModal(),
  c: openCrop,
  m: () => document.activeElement.closest("[data-card]")?.querySelector("[data-more]").click(),
  r: () => document.getElementById("query")?.requestSubmit(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && document.activeElement instanceof HTMLElement) document.activeElement.blur();
  if (isTyping(event.target) || event.target.matches("[data-crop-box]") || !isOn.checked) return;
  if (event.key.startsWith("Arrow") && (document.activeElement.closest("[data-card]") || event.key === "ArrowRight")) {
    if (!cards().length) return;
    event.preventDefault();
    step(event.key);
  } else if (shortcuts[event.key]) {
    event.preventDefault();
    shortcuts[event.key]();
  }
});
document.querySelector("[data-help]")?.addEventListener("click", () => help.showModal());
