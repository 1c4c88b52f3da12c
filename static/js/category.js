// The staff's category pages: chosen photos shown at once, a bar while they are sent, news told to screen readers.
(() => {
  "use strict";
  const SHOWN = 12;

  function sizeWords(bytes) {
    return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
  }

  function showChosen(input) {
    const box = input.form.querySelector("[data-chosen]");
    const photos = box.querySelector("[data-chosen-photos]");
    const files = [...input.files];
    for (const image of photos.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    photos.replaceChildren();
    box.hidden = files.length === 0;
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    box.querySelector("[data-chosen-words]").textContent =
      `${files.length} ${files.length === 1 ? "photo" : "photos"} chosen, ${sizeWords(bytes)}`;
    for (const file of files.slice(0, SHOWN)) {
      const image = new Image(56, 56);
      image.alt = "";
      image.addEventListener("error", () => image.classList.add("is-broken"));
      image.src = URL.createObjectURL(file);
      photos.append(image);
    }
    if (files.length > SHOWN) photos.append(`+${files.length - SHOWN}`);
  }

  function showSending(form, share) {
    const box = form.querySelector("[data-sending]");
    box.hidden = share === null;
    if (share === null) return;
    box.querySelector("progress").value = Math.round(100 * share);
    box.querySelector("[data-sending-words]").textContent =
      share < 1 ? "Sending the photos…" : "Checking every photo…";
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-upload] input[type=file][name=photos]")) showChosen(event.target);
  });
  document.addEventListener("htmx:xhr:progress", (event) => {
    const form = event.target.closest("[data-upload]");
    if (form && event.detail.lengthComputable) showSending(form, event.detail.loaded / event.detail.total);
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const form = event.target.closest("[data-upload]");
    if (form) showSending(form, null);
  });

  let said = document.querySelector("[data-headline]")?.textContent;
  document.addEventListener("htmx:afterSwap", () => {
    const problems = document.querySelector("#form-problems[role=alert]");
    if (problems && !problems.contains(document.activeElement)) problems.focus();
    const headline = document.querySelector("[data-headline]")?.textContent;
    const status = document.querySelector("#category-said");
    // Progress in a step is on the screen for who wants it; only a new sentence is worth interrupting for.
    const plain = (text) => (text || "").replace(/[\d.,]+/g, "");
    if (status && plain(headline) !== plain(said)) status.textContent = headline;
    said = headline;
  });
})();
