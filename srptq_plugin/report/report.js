"use strict";
const viewers = [...document.querySelectorAll(".viewer")];

function show(side, layer, label) {
  for (const viewer of viewers) {
    for (const image of viewer.querySelectorAll("img")) image.classList.toggle(side, image.dataset.layer === layer);
    viewer.querySelector(`.of-${side}`).textContent = label;
  }
}

for (const input of document.querySelectorAll(".choice input")) {
  const choose = () => input.checked && show(input.name, input.value, input.dataset.label);
  input.addEventListener("change", choose);
  choose();
}

for (const viewer of viewers) {
  const slider = viewer.querySelector("input");
  const move = (share) => {
    slider.value = Math.max(0, Math.min(100, 100 * share));
    viewer.style.setProperty("--at", `${slider.value}%`);
  };
  const follow = (event) => {
    const box = viewer.getBoundingClientRect();
    move((event.clientX - box.left) / box.width);
  };
  slider.addEventListener("input", () => move(slider.value / 100));
  slider.addEventListener("pointermove", (event) => (event.buttons || event.pointerType === "mouse") && follow(event));
  slider.addEventListener("pointerdown", follow);
}
