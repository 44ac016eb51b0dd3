"use strict";
const tip = document.getElementById("tip");
document.querySelectorAll(".legend button").forEach(button => button.addEventListener("click", () => {
  const shown = button.getAttribute("aria-pressed") === "false";
  const scope = button.closest("figure") || document;
  scope.querySelectorAll(".legend button, g[data-key]").forEach(other => {
    if (other.dataset.key !== button.dataset.key) return;
    if (other.tagName === "g") other.classList.toggle("off", !shown);
    else other.setAttribute("aria-pressed", String(shown));
  });
}));
const short = value => Number(value.toPrecision(5)).toString();
document.querySelectorAll("svg[data-x0]").forEach(svg => {
  const [x0, x1, y0, y1] = ["x0", "x1", "y0", "y1"].map(key => Number(svg.dataset[key]));
  const [left, right, top, bottom] = svg.dataset.box.split(" ").map(Number);
  const cursor = svg.querySelector(".cursor");
  const points = group => [...group.querySelectorAll("[data-points]")].flatMap(
    line => line.dataset.points.split(" ").filter(Boolean).map(pair => pair.split(",").map(Number)));
  const cache = new Map();
  svg.addEventListener("mousemove", event => {
    const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
    const at = x0 + ((event.clientX - box.left) / box.width * width - left) / (right - left) * (x1 - x0);
    const lines = [];
    let best = null;
    svg.querySelectorAll("g[data-key]:not(.off)").forEach(group => {
      if (!cache.has(group)) cache.set(group, points(group));
      let near = null;
      for (const point of cache.get(group)) if (!near || Math.abs(point[0] - at) < Math.abs(near[0] - at)) near = point;
      if (!near) return;
      if (best === null || Math.abs(near[0] - at) < Math.abs(best - at)) best = near[0];
      lines.push([near[0], group.dataset.name + "  " + short(near[1])]);
    });
    if (best === null) return;
    const across = left + (x1 > x0 ? (best - x0) / (x1 - x0) : .5) * (right - left);
    cursor.setAttribute("x1", across); cursor.setAttribute("x2", across); cursor.classList.remove("off");
    tip.textContent = svg.dataset.axis + " " + short(best) + "\n" + lines.map(line => line[1]).join("\n");
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
  });
  svg.addEventListener("mouseleave", () => { tip.style.display = "none"; cursor.classList.add("off"); });
});
