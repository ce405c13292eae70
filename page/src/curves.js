import { COLOURS, curveChart, SYMBOLS } from "./charts.js";
import { asked, breakable, draw, embedded, make, remember } from "./dom.js";

const MOST = COLOURS.length;
const PATHS = {
  circle: "M8 4a4 4 0 1 0 .01 0Z",
  square: "M4.5 4.5h7v7h-7Z",
  triangle: "M8 3.5 12.5 11.5h-9Z",
  diamond2: "M8 3 13 8 8 13 3 8Z",
  cross: "M6.5 3.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z",
  star: "M8 2.5 9.5 6.4h4L10.300 8.900 11.500 13 8 10.500 4.500 13 5.700 8.900 2.500 6.400h4Z",
};

/** The page of curves: a data set and norm, and the models that the reader chooses. */
export function curvesPage() {
  const panels = embedded();
  const form = document.getElementById("pick");
  const [panel, list] = [form.elements.panel, form.querySelector(".list")];
  panels.forEach(({ dataset, norm }, k) => panel.append(new Option(`${dataset}, ${norm}`, k)));
  const models = asked("m");
  const at = panels.findIndex((one) => one.curves.some(({ model }) => models.includes(model)));
  panel.value = at < 0 ? longest(panels) : at;
  let chosen = [];

  function enter() {
    const { curves } = panels[panel.value];
    const wanted = chosen.length ? chosen.map((one) => one.model) : models;
    chosen = curves.filter((one) => wanted.includes(one.model)).slice(0, MOST);
    if (!chosen.length) chosen = best(curves).slice(0, 3);
    show();
  }

  function show() {
    const { dataset, norm, curves } = panels[panel.value];
    const words = form.elements.search.value.trim().toLowerCase().split(/\s+/);
    const fits = ({ label }) => words.every((word) => label.toLowerCase().includes(word));
    const focused = document.activeElement?.value;
    list.replaceChildren(...best(curves).filter((one) => fits(one) || chosen.includes(one)).map(row));
    list.querySelector(`input[value="${CSS.escape(focused ?? "")}"]`)?.focus();
    const place = document.getElementById("plot");
    const width = Math.max(280, place.clientWidth);
    const label = `Accuracy over eps, ${dataset}, ${norm}: ${chosen.map((c) => c.label).join(", ")}`;
    place.replaceChildren(
      curveChart(chosen, { norm, width, height: Math.min(460, 0.62 * width + 80), label }),
    );
    remember(chosen.map((one) => ["m", one.model]));
  }

  function row(curve) {
    const k = chosen.indexOf(curve);
    const change = () => {
      chosen = k < 0 ? [...chosen, curve] : chosen.filter((one) => one !== curve);
      show();
    };
    const key = draw("svg", { viewBox: "0 0 16 16", class: "key", "aria-hidden": "true" });
    if (k >= 0) key.append(draw("path", { d: PATHS[SYMBOLS[k]], fill: COLOURS[k] }));
    const box = make("input", {
      type: "checkbox",
      value: `${curve.label} ${curve.suite}`,
      checked: k >= 0,
      disabled: k < 0 && chosen.length >= MOST,
      change,
    });
    const several = panels[panel.value].curves.filter((one) => one.label === curve.label).length > 1;
    const about = several ? ` (${curve.suite}, ${curve.points[0][3]} images)` : "";
    return make("label", {}, box, key, make("span", {}, breakable(curve.label), about));
  }

  panel.addEventListener("change", enter);
  form.elements.search.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("resize", show);
  enter();
}

/** The panel whose curves have the most points. */
function longest(panels) {
  const points = panels.map(({ curves }) => Math.max(...curves.map((one) => one.points.length)));
  return points.indexOf(Math.max(...points));
}

/** Curves by their mean certified accuracy, the best first. */
function best(curves) {
  const mean = ({ points }) => points.reduce((sum, point) => sum + point[1], 0) / points.length;
  return [...curves].sort((a, b) => mean(b) - mean(a));
}
