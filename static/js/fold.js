// A panel that is open where there is room and folded on a phone. Without scripts it is simply open.
const narrow = matchMedia("(max-width: 899px)");
const fit = () => document.querySelectorAll("[data-fold]").forEach((panel) => (panel.open = !narrow.matches));
narrow.addEventListener("change", fit);
fit();
