// What was said of a result is said aloud, keeps the focus where it was, and takes the photo along when allowed to.

document.addEventListener("htmx:configRequest", (event) => {
  const photo = document.getElementById("query-image")?.files[0];
  const isAllowed = document.getElementById("consent")?.checked;
  if (event.target.matches("[data-feedback]") && photo && isAllowed) event.detail.formData.append("image", photo);
});

document.addEventListener("htmx:afterSettle", (event) => {
  if (!event.target.matches("[data-feedback]")) return;
  const said = event.target.querySelector("[data-said]");
  document.getElementById("announce").textContent = said ? said.dataset.said : "Taken back";
  event.target.querySelector("button").focus({ preventScroll: true });
});
