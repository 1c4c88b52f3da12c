// “What matched?” opens over the results, says what it found, and closes by button, Esc or a tap beside it.

const matched = document.getElementById("matched");
const isItsOwn = (event) => event.detail.target === matched;

function open() {
  if (!matched.open) matched.showModal();
  const words = document.getElementById("matched-words") || matched.querySelector("[role=alert]");
  document.getElementById("announce").textContent = words?.textContent.trim() || "";
}

document.addEventListener("htmx:afterSettle", (event) => event.target === matched && open());
for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    if (!isItsOwn(event)) return;
    const note = document.getElementById("problem").content.cloneNode(true);
    note.querySelector("[data-text]").textContent = "No connection. Your photo is still here; try again.";
    matched.replaceChildren(note, document.getElementById("close").content.cloneNode(true));
    open();
  });
}
matched.addEventListener("click", (event) => event.target === matched && matched.close());
matched.addEventListener("close", () => matched.replaceChildren());
