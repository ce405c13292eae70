import * as Plot from "@observablehq/plot";
import { percent } from "./dom.js";

// The style has the values of both themes; symbols tell curves apart without colour.
export const COLOURS = [1, 2, 3, 4, 5, 6].map((k) => `var(--series-${k})`);
export const SYMBOLS = ["circle", "square", "triangle", "diamond2", "cross", "star"];

const base = {
  style: { fontFamily: "inherit", fontSize: "12px", background: "none", overflow: "visible" },
  className: "chart",
};

/** Accuracy over eps: a band for each curve, from certified (solid) to empirical (dashed). */
export function curveChart(curves, { norm, width, height, label }) {
  const points = curves.flatMap(({ label, points }, k) =>
    points.map(([eps, certified, empirical, n, text]) => ({
      label, k, eps, certified, empirical, n, text,
    })),
  );
  const both = points.filter((point) => point.empirical !== null);
  const style = { stroke: (d) => COLOURS[d.k], z: "k" };
  const ticks = [...new Map(points.map((point) => [point.eps, point.text]))];
  return Plot.plot({
    ...base,
    width,
    height,
    marginLeft: 44,
    marginRight: 16,
    marginBottom: 38,
    ariaLabel: label,
    x: { label: `eps (${norm})`, ticks: spaced(ticks, width), tickFormat: named(ticks) },
    y: { label: "accuracy (%)", domain: [0, 1], grid: true, tickFormat: (y) => 100 * y, ticks: 5 },
    symbol: { type: "identity" },
    color: { type: "identity" },
    marks: [
      Plot.ruleY([0]),
      Plot.areaY(both, {
        x: "eps", y1: "certified", y2: "empirical", z: "k",
        fill: (d) => COLOURS[d.k], fillOpacity: 0.18,
      }),
      Plot.lineY(points, { x: "eps", y: "certified", ...style, strokeWidth: 2 }),
      Plot.lineY(both, {
        x: "eps", y: "empirical", ...style, strokeWidth: 1.5, strokeDasharray: "4 3",
      }),
      Plot.dot(points, {
        x: "eps", y: "certified", fill: (d) => COLOURS[d.k], symbol: (d) => SYMBOLS[d.k], r: 4,
      }),
      Plot.dot(both, {
        x: "eps", y: "empirical", ...style, symbol: (d) => SYMBOLS[d.k], r: 3.5,
        fill: "var(--paper)",
      }),
      Plot.tip(points, Plot.pointer({
        x: "eps", y: "certified", fill: "var(--raised)", stroke: "var(--line)",
        title: (d) =>
          `${d.label}\neps ${d.text}: ${percent(d.certified)} to ${percent(d.empirical)} %\n` +
          `${d.n} images`,
      })),
    ],
  });
}

/** Ticks at the eps of rows; of those that would touch each other, the larger one is left out. */
function spaced(ticks, width) {
  const largest = Math.max(...ticks.map(([eps]) => eps)) || 1;
  const kept = [];
  for (const [eps] of ticks.sort(([a], [b]) => a - b)) {
    if (!kept.length || ((eps - kept.at(-1)) / largest) * (width - 60) > 42) kept.push(eps);
  }
  return kept;
}

function named(ticks) {
  const texts = new Map(ticks);
  return (eps) => texts.get(eps) ?? String(eps);
}

/** Certified radii above the line, distances of adversarial examples below it. */
export function histogram({ eps, largest, certified, adversarial, title }, { width, height }) {
  const step = largest / certified.length;
  const bars = (counts, sign) =>
    counts.map((n, k) => ({ x1: k * step, x2: (k + 1) * step, y: sign * n })).filter((d) => d.y);
  const most = Math.max(...certified, 1);
  const least = Math.max(...adversarial, 0);
  return Plot.plot({
    ...base,
    width,
    height,
    marginLeft: 44,
    marginBottom: 34,
    ariaLabel: `Certified radii and adversarial distances, ${title}`,
    x: { label: "radius, distance", domain: [0, largest], ticks: 5 },
    y: {
      label: "examples", domain: [-least, most], ticks: 5, tickFormat: (y) => Math.abs(y), grid: true,
    },
    marks: [
      Plot.rectY(bars(certified, 1), {
        x1: "x1", x2: "x2", y: "y", fill: "var(--certified)", insetLeft: 0.5,
      }),
      Plot.rectY(bars(adversarial, -1), {
        x1: "x1", x2: "x2", y: "y", fill: "var(--attack)", insetLeft: 0.5,
      }),
      Plot.ruleY([0]),
      Plot.ruleX([eps], { strokeDasharray: "3 3" }),
    ],
  });
}
