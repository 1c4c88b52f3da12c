// “What matched?” opens over the results, its sentence is its description, and it closes by button, Esc or a tap beside it.

const matched = document.getElementById("matched");
let opener = null;

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.target === matched) opener = event.target;
});
document.addEventListener("htmx:afterSettle", (event) => event.target === matched && !matched.open && matched.showModal());
for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    if (event.detail.target !== matched) return;
    matched.replaceChildren(document.getElementById("unexplained").content.cloneNode(true));
    matched.showModal();
  });
}
matched.addEventListener("click", (event) => event.target === matched && matched.close());
matched.addEventListener("close", () => {
  matched.replaceChildren();
  opener?.focus({ preventScroll: true });
});
