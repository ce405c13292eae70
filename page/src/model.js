import { curveChart, histogram } from "./charts.js";
import { embedded, make } from "./dom.js";

/** The charts in the page of a model. */
export function modelPage() {
  const { curves, histograms } = embedded();
  const draw = () => {
    fill("curves", curves, ({ dataset, norm, curves }, width) => {
      const title = `${dataset}, ${norm}`;
      return [title, curveChart(curves, { norm, width, height: 220, label: title })];
    });
    fill("histograms", histograms, (one, width) => [
      one.title,
      histogram(one, { width, height: 170 }),
    ]);
  };
  draw();
  addEventListener("resize", draw);
}

function fill(id, items, chart) {
  const place = document.getElementById(id);
  if (!place) return;
  const columns = place.clientWidth > 1000 ? 3 : place.clientWidth > 640 ? 2 : 1;
  const width = Math.floor((place.clientWidth - (columns - 1) * 28) / columns);
  place.replaceChildren(
    ...items.map((item) => {
      const [title, drawn] = chart(item, width);
      return make("figure", {}, make("figcaption", {}, title), drawn);
    }),
  );
}
