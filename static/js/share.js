// The share of a trial: presets, number and slider say the same. Without scripts the presets and the number do it.
(() => {
  "use strict";
  const form = document.querySelector("[data-share-form]");
  if (!form) return;
  const number = form.elements.other_share;
  const slider = form.querySelector("[data-share-slider]");
  const button = form.querySelector("[data-whole]");

  function preset(value) {
    const radios = [...form.elements.share];
    const same = radios.find((radio) => radio.value === String(value));
    (same || radios.find((radio) => radio.value === "other")).checked = true;
  }

  function name() {
    const isPart = Number(number.value) < 100 || form.elements.scope.value !== "" || form.elements.shadow.checked;
    button.textContent = isPart ? button.dataset.part : button.dataset.whole;
  }

  form.addEventListener("input", (event) => {
    if (event.target === slider) number.value = slider.value;
    if (event.target === number) slider.value = number.value;
    if (event.target === slider || event.target === number) preset(number.value);
    if (event.target.name === "share" && event.target.value !== "other") slider.value = number.value = event.target.value;
    name();
  });
  form.addEventListener("change", (event) => {
    if (event.target.name === "share" && event.target.value === "other") number.focus();
  });
})();
