import { draw, percent } from "./dom.js";

/** The bar from certified to empirical accuracy, as the tables draw it. */
export function bracket(row) {
  const at = (share) => (100 * share).toFixed(2);
  const top = Math.max(100 * (row.empirical ?? row.certified), 100 * row.certified + 0.9);
  const path = (kind, d) => draw("path", { class: kind, d });
  return draw(
    "svg",
    {
      class: "bar",
      viewBox: "0 0 100 16",
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `certified ${percent(row.certified)} %, empirical ${percent(row.empirical)} %`,
    },
    path("track", "M0 8H100"),
    path("proved", `M0 5.5H${at(row.certified)}V10.5H0Z`),
    path("between", `M${at(row.certified)} 3.5H${top.toFixed(2)}V12.5H${at(row.certified)}Z`),
    path(
      "interval",
      `M${at(row.low)} 8H${at(row.high)}M${at(row.low)} 5.5V10.5M${at(row.high)} 5.5V10.5`,
    ),
    path("clean", `M${at(row.clean)} 1.5V14.5`),
  );
}
