// Asking again when something changed, saying how it went, and never losing the photo on the way.

const RETRIES = 30;
const narrow = matchMedia("(max-width: 899px)");
const query = () => document.getElementById("query");
let retries = 0;
let wasSubmitted = false;

function again() {
  if (query()?.checkValidity()) htmx.trigger(query(), "search-now");
}

function isOfQuery(control) {
  return control.form?.id === "query" && !["image", "kept", "photo"].includes(control.name) && control.id !== "consent";
}

function announce(text) {
  document.getElementById("announce").textContent = text;
}

// Without scripts a chip is a submit button; with them its field is emptied here and the search goes on.
function drop(chip) {
  const [field, ...rest] = chip.value.split(":");
  const value = rest.join(":");
  for (const control of [...query().elements].filter((one) => one.name === field)) {
    if (control.type === "hidden" && control.value === value) control.remove();
    else if (control.type !== "hidden") control.value = "";
  }
  again();
}

function keepTag(input) {
  const tag = input.value.trim();
  if (!tag) return;
  const kept = Object.assign(document.createElement("input"), { type: "hidden", name: "tag", value: tag });
  input.after(kept);
  input.value = "";
}

function openPanelWhereThereIsRoom() {
  const panel = document.getElementById("panel");
  if (panel) panel.open = !narrow.matches;
}

document.addEventListener("input", (event) => {
  if (isOfQuery(event.target) && ["search", "number"].includes(event.target.type)) again();
});
document.addEventListener("change", (event) => {
  if (!isOfQuery(event.target)) return;
  if (event.target.id === "tag") keepTag(event.target);
  again();
});
document.addEventListener("submit", (event) => {
  if (event.target.id === "query") wasSubmitted = true;
}, true);
document.addEventListener("click", (event) => {
  const chip = event.target.closest("button[name=drop]");
  if (!chip) return;
  event.preventDefault();
  drop(chip);
});

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.id === "query") document.getElementById("results").classList.add("is-busy");
});
document.addEventListener("htmx:afterSettle", (event) => {
  if (event.target.id !== "results") return;
  event.target.classList.remove("is-busy", "is-first");
  const title = document.getElementById("results-title");
  announce(title?.dataset.announce || "");
  if (wasSubmitted) title?.focus({ preventScroll: true });
  wasSubmitted = false;
  retryLater(event.target.querySelector("[data-retry-seconds]"));
});
for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    if (event.target.id !== "query") return;
    const results = document.getElementById("results");
    results.replaceChildren(document.getElementById("offline").content.cloneNode(true));
    results.classList.remove("is-busy", "is-first");
    announce(document.getElementById("results-title").dataset.announce);
  });
}

// Warming up or busy: come back by itself after the time the server asked for.
function retryLater(place) {
  if (!place) return void (retries = 0);
  if (retries++ < RETRIES) setTimeout(() => document.contains(place) && again(), Number(place.dataset.retrySeconds) * 1000);
}

narrow.addEventListener("change", openPanelWhereThereIsRoom);
new MutationObserver(openPanelWhereThereIsRoom).observe(document.getElementById("search"), { childList: true });
openPanelWhereThereIsRoom();
retryLater(document.querySelector("[data-retry-seconds]"));
