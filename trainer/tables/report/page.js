"use strict";
// Without this script the page shows everything too: values in tables, all pictures side by side.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Charts: the step nearest to the pointer, or chosen by arrow keys, with the value of every line.
function pointable(figure) {
  const svg = figure.querySelector(":scope > svg"), tip = figure.querySelector(".tip");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const cursor = svg.querySelector(".cursor"), [low, high, left, right] = data.x, [, , bottom, top] = data.y;
  const validated = data.lines.filter((line) => !line.train);
  const steps = [...new Set((validated.length ? validated : data.lines).flatMap((line) => line.steps))].sort((a, b) => a - b);
  const pointOf = (line, step) => line.train ? line.steps.findLastIndex((s) => s <= step) : line.steps.indexOf(step);
  const place = (step) => left + ((step - low) / (high - low)) * (right - left);
  let at = -1;

  function text(line, i) {
    const sd = line.sd[i], mean = line.mean[i] == null ? "not finite" : Number(line.mean[i].toPrecision(4));
    const few = line.n[i] < Math.max(...line.n) ? ` (n = ${line.n[i]})` : "";
    return `${line.name} ${mean}${sd == null ? "" : ` ± ${Number(sd.toPrecision(2))}`}${few}`;
  }
  function show(index) {
    at = Math.max(0, Math.min(steps.length - 1, index));
    const step = steps[at], x = place(step);
    const found = data.lines.map((line) => [line, pointOf(line, step)]).filter(([, i]) => i >= 0);
    tip.replaceChildren(element("b", {}, `step ${step}`), ...found.slice(0, 12).map(([line, i]) => {
      const dot = document.createElementNS(SVG, "svg"), circle = document.createElementNS(SVG, "circle");
      dot.setAttribute("viewBox", "0 0 9 9");
      for (const [key, value] of [["cx", 4.5], ["cy", 4.5], ["r", 4], ["class", `f${line.colour % 8}`]]) circle.setAttribute(key, value);
      dot.append(circle);
      return element("div", {}, dot, element("span", {}, text(line, i)));
    }));
    tip.hidden = false;
    cursor.setAttribute("d", `M${x} ${top}V${bottom}`);
    const box = svg.getBoundingClientRect(), outer = figure.getBoundingClientRect();
    const middle = box.left - outer.left + (x / 420) * box.width, room = outer.width - tip.offsetWidth - 4;
    const beside = middle + 12 + tip.offsetWidth > outer.width ? middle - 12 - tip.offsetWidth : middle + 12;
    tip.style.left = `${Math.max(4, Math.min(room, beside))}px`;
    tip.style.top = `${box.top - outer.top + 8}px`;
  }
  function hide() {
    tip.hidden = true;
    cursor.setAttribute("d", "");
  }
  function follow(event) {
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * 420;
    let nearest = 0;
    steps.forEach((step, i) => { if (Math.abs(place(step) - x) < Math.abs(place(steps[nearest]) - x)) nearest = i; });
    show(nearest);
  }
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: steps.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (move === undefined) return;
    event.preventDefault();
    show(at < 0 && event.key === "ArrowLeft" ? steps.length - 1 : move);
  });
}

// Pictures: two of one image above each other, parted by a slider.
function comparable(all) {
  const rows = [...all.querySelectorAll(".panels")].filter((row) => row.querySelectorAll("img").length > 1);
  if (!rows.length) return;
  const item = element("select"), under = element("img", { alt: "" }), over = element("img", { alt: "" });
  const left = element("select"), right = element("select");
  const divider = element("div", { class: "divider" });
  const leftSide = element("div", { class: "side left" }), rightSide = element("div", { class: "side right" });
  const stage = element("div", { class: "stage" }, under, over, divider, leftSide, rightSide);
  const slider = element("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, "aria-label": "Divider between the left and the right picture, per cent" });
  const label = (text, input) => element("label", {}, text, input);
  rows.forEach((row, i) => item.append(element("option", { value: i }, row.dataset.item)));

  const name = (img) => [img.dataset.title, img.dataset.run].filter(Boolean).join(", ");
  const images = () => [...rows[item.value].querySelectorAll("img")];
  function fill(select, wanted) {
    const groups = new Map([["", []]]);
    images().forEach((img, i) => {
      const { run, title } = img.dataset;
      groups.set(run, [...(groups.get(run) ?? []), element("option", { value: i }, title)]);
    });
    select.replaceChildren(...[...groups].flatMap(([run, options]) => (run ? [element("optgroup", { label: run }, ...options)] : options)));
    const index = images().findIndex((img) => name(img) === wanted || img.dataset.key === wanted);
    select.value = Math.max(0, index);
  }
  const chosen = (select) => name(images()[select.value]);
  let [first, second] = ["input", "prediction"];  // kept when another image is chosen
  function choose() {
    fill(left, first);
    fill(right, second);
    draw();
  }
  function draw() {
    [first, second] = [chosen(left), chosen(right)];
    const [one, two] = [images()[left.value], images()[right.value]];
    for (const [img, source, side] of [[over, one, leftSide], [under, two, rightSide]]) {
      img.src = source.src;
      img.alt = source.alt;
      side.textContent = [name(source), source.dataset.note].filter(Boolean).join(": ");
    }
    under.width = two.width;
    under.height = two.height;
    slide();
  }
  function slide() {
    const share = Number(slider.value);
    over.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    divider.style.left = `${share}%`;
    slider.setAttribute("aria-valuetext", `${Math.round(share)} % ${first}`);
  }
  function drag(event) {
    const box = stage.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    slide();
  }
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); event.preventDefault(); });
  stage.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  slider.addEventListener("input", slide);
  left.addEventListener("change", draw);
  right.addEventListener("change", draw);
  item.addEventListener("change", choose);
  const choices = element("div", { class: "choices" }, label("Image", item), label("Left", left), label("Right", right));
  all.before(element("div", { class: "compare" }, choices, stage, slider));
  all.open = false;
  choose();
}

document.querySelectorAll(".chart").forEach(pointable);
document.querySelectorAll("details.all").forEach(comparable);
addEventListener("beforeprint", () => document.querySelectorAll("details:not(.more, .chart details)").forEach((part) => { part.open = true; }));
