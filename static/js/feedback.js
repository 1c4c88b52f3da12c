// Says aloud what was said of a result.
document.addEventListener("htmx:afterSettle", () => {
  const said = document.activeElement?.closest("[data-feedback]")?.querySelector("[data-said]");
  if (said) document.getElementById("announce").textContent = said.dataset.said;
});
