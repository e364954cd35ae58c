"use strict";
// Marks in figures light up with the frame or card that they belong to.
function light(name, on) {
  if (!name) return;
  document.querySelectorAll(`[data-mark="${name}"], .card[data-lights="${name}"]`).forEach((element) => {
    element.classList.toggle("lit", on);
  });
  if (name.startsWith("cluster")) document.body.classList.toggle("dim", on);
}

document.querySelectorAll(".card[data-lights]").forEach((card) => {
  for (const event of ["pointerenter", "focus"]) card.addEventListener(event, () => light(card.dataset.lights, true));
  for (const event of ["pointerleave", "blur"]) card.addEventListener(event, () => light(card.dataset.lights, false));
});
document.querySelectorAll('[data-mark^="cluster"]').forEach((mark) => {
  mark.addEventListener("pointerenter", () => light(mark.dataset.mark, true));
  mark.addEventListener("pointerleave", () => light(mark.dataset.mark, false));
});

// A viewer shows one frame of its strip at a time.
function startViewer(viewer) {
  const frames = [...viewer.querySelectorAll(".frame")];
  const stage = [...viewer.querySelectorAll(".shown")];
  const slider = viewer.querySelector("input");
  const play = viewer.querySelector(".play");
  const label = viewer.querySelector(".label");
  let current = -1;
  let timer = 0;
  let direction = 1;

  function show(number) {
    if (number < 0 || number >= frames.length || number === current) return;
    if (current >= 0) {
      light(frames[current].dataset.lights, false);
      frames[current].removeAttribute("aria-current");
    }
    current = number;
    const frame = frames[number];
    frame.setAttribute("aria-current", "true");
    light(frame.dataset.lights, true);
    [...frame.querySelectorAll("img")].forEach((image, side) => {
      stage[side].src = image.src;
      stage[side].alt = image.alt;
    });
    slider.value = number;
    const strip = frame.parentElement;
    strip.scrollLeft = frame.offsetLeft - strip.offsetLeft - (strip.clientWidth - frame.clientWidth) / 2;
    label.textContent = frame.dataset.label;
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶";
    play.setAttribute("aria-label", "play");
  }

  function start() {
    const closed = viewer.hasAttribute("data-closed");
    timer = setInterval(() => {
      if (closed) return show((current + 1) % frames.length);
      if (current + direction < 0 || current + direction >= frames.length) direction = -direction;
      show(current + direction);
    }, 240);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "pause");
  }

  play.addEventListener("click", () => (timer ? stop() : start()));
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  frames.forEach((frame, number) => frame.addEventListener("click", () => { stop(); show(number); }));
  viewer.step = (by) => { stop(); show(current + by); };
  show(viewer.hasAttribute("data-closed") ? 0 : Math.floor((frames.length - 1) / 2));
}

const viewers = [...document.querySelectorAll(".viewer")];
viewers.forEach(startViewer);

// ← and → step the viewer that has the focus, else the one nearest to the middle of the window.
document.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
  const distance = (viewer) => {
    const place = viewer.getBoundingClientRect();
    return Math.abs((place.top + place.bottom - window.innerHeight) / 2);
  };
  const focused = event.target.closest ? event.target.closest(".viewer") : null;
  const viewer = focused || [...viewers].sort((a, b) => distance(a) - distance(b))[0];
  if (!viewer) return;
  event.preventDefault();
  viewer.step(event.key === "ArrowRight" ? 1 : -1);
});
