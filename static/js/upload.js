// A photo comes in by choosing, dropping, pasting or the camera: shown at once, shrunk here, then sent.

const LONGEST_SIDE = 1024;
const KEPT_PHOTOS = 3;
const ALLOWED = ["image/jpeg", "image/png", "image/webp"];
const page = document.getElementById("search");
const maxBytes = Number(page.dataset.maxBytes);
const sentence = `Send a JPEG, PNG or WebP of up to ${Math.floor(maxBytes / 1048576)} MB.`;

function problemWith(file) {
  if (file.type && !ALLOWED.includes(file.type) && !/hei[cf]/.test(file.type)) {
    const kind = file.type === "application/pdf" ? "PDF" : (file.name.split(".").pop() || file.type).slice(0, 12).toUpperCase();
    return `That file is a ${kind}. ${sentence}`;
  }
  if (file.size === 0) return `That file is empty. ${sentence}`;
  if (file.size > maxBytes) return `That file has ${(file.size / 1048576).toFixed(1)} MB. ${sentence}`;
  return "";
}

function showProblem(text) {
  const note = document.getElementById("problem").content.cloneNode(true);
  note.querySelector("[data-text]").textContent = text;
  const place = document.getElementById("drop-error") || document.getElementById("panel-error");
  place.replaceChildren(note);
}

// Upright, at most 1024 pixels, JPEG: twelve megapixels never travel, and neither does where the photo was taken.
async function shrunk(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const quality = scale < 1 ? 0.9 : 0.95;
  return new Promise((resolve) => canvas.toBlob((blob) => resolve(new File([blob], "photo.jpg", { type: "image/jpeg" })), "image/jpeg", quality));
}

// Kept in this tab alone, so that Back and a reload find the photo again.
function remember(file) {
  const id = Math.random().toString(36).slice(2, 12);
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    try {
      const ids = JSON.parse(sessionStorage.getItem("photos") || "[]");
      while (ids.length >= KEPT_PHOTOS) sessionStorage.removeItem(`photo:${ids.shift()}`);
      sessionStorage.setItem(`photo:${id}`, reader.result);
      sessionStorage.setItem("photos", JSON.stringify([...ids, id]));
    } catch {
      // A full or forbidden store costs the photo on reload, nothing else.
    }
  });
  reader.readAsDataURL(file);
  return id;
}

function show(url) {
  for (const image of document.querySelectorAll("[data-query-photo]")) {
    image.src = url;
    image.removeAttribute("width");
    image.removeAttribute("height");
    image.closest(".panel-photo")?.classList.remove("is-empty");
  }
  document.dispatchEvent(new CustomEvent("photo-shown"));
}

function fill(file) {
  const transfer = new DataTransfer();
  transfer.items.add(file);
  const form = document.getElementById("query");
  form.elements.image.files = transfer.files;
  form.elements.kept?.remove();
  return form;
}

async function accept(file) {
  const problem = problemWith(file);
  if (problem) return showProblem(problem);
  if (!document.querySelector("#query[hx-post]")) {
    page.replaceChildren(document.getElementById("photo-search").content.cloneNode(true));
    htmx.process(page);
    window.scrollTo(0, 0);
  }
  document.getElementById("panel-error")?.replaceChildren();
  document.getElementById("results").classList.add("is-first", "is-busy");
  const url = URL.createObjectURL(file);
  show(url);
  document.dispatchEvent(new CustomEvent("crop-whole"));
  const ready = await shrunk(file).catch(() => file); // what this browser cannot decode, the server will name
  const form = fill(ready);
  form.elements.photo.value = remember(ready);
  htmx.trigger(form, "submit");
}

function restore() {
  const form = document.querySelector("#query[hx-post]");
  const stored = form?.elements.photo.value && sessionStorage.getItem(`photo:${form.elements.photo.value}`);
  if (!stored) return;
  document.getElementById("results").classList.add("is-first", "is-busy");
  const bytes = Uint8Array.from(atob(stored.split(",")[1]), (letter) => letter.charCodeAt(0));
  const file = new File([bytes], "photo.jpg", { type: "image/jpeg" });
  fill(file);
  show(URL.createObjectURL(file));
  htmx.trigger(form, "search-now");
}

function pick(how) {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = how === "camera" ? "image/*" : ALLOWED.join(",");
  if (how === "camera") input.setAttribute("capture", "environment");
  input.addEventListener("change", () => input.files[0] && accept(input.files[0]));
  input.click();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-choose]");
  if (button) pick(button.dataset.choose);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])][0];
  if (file) {
    event.preventDefault();
    accept(file);
  }
});
let depth = 0;
const dragging = (delta) => document.body.classList.toggle("is-dragging", (depth = Math.max(0, depth + delta)) > 0);
const hasFile = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => hasFile(event) && dragging(1));
document.addEventListener("dragleave", (event) => hasFile(event) && dragging(-1));
document.addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  dragging(-depth);
  if (event.dataTransfer.files[0]) accept(event.dataTransfer.files[0]);
});
document.addEventListener("DOMContentLoaded", restore); // htmx has taken up the form by then
