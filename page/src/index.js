import { board } from "./tables.js";

const plural = (n, one) => `${n} ${n === 1 ? one : `${one}s`}`;

/** The page of tables: filters above all of them, and models that the reader chooses. */
export function index() {
  const boards = [...document.querySelectorAll(".board")].map(board);
  const form = document.getElementById("filters");
  const total = boards.reduce((sum, one) => sum + one.total, 0);

  function filter() {
    const filters = Object.fromEntries(new FormData(form));
    const shown = boards.reduce((sum, one) => sum + one.apply(filters), 0);
    const text = shown === total ? plural(total, "row") : `${shown} of ${plural(total, "row")}`;
    document.getElementById("count").textContent = text;
    document.getElementById("nothing").hidden = shown > 0;
    for (const link of document.querySelectorAll(".jump a")) {
      link.hidden = document.getElementById(link.hash.slice(1))?.hidden ?? false;
    }
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    // The browser's own reset comes after this event, too late for the filters.
    event.preventDefault();
    for (const field of form.querySelectorAll("input, select")) field.value = "";
    filter();
  });
  filter();
  choosing();
}

/** Models that are ticked in any table, and where to go with them. */
function choosing() {
  const panel = document.getElementById("chosen");
  const boxes = [...document.querySelectorAll("td.choose input")];
  const models = new Set();
  const links = Object.fromEntries(
    [...panel.querySelectorAll("a")].map((link) => [link.dataset.to, link]),
  );

  function show() {
    for (const box of boxes) {
      box.checked = models.has(box.value);
      box.closest("tr").classList.toggle("picked", box.checked);
    }
    const names = [...models];
    panel.hidden = names.length === 0;
    panel.querySelector("span").textContent = `${plural(names.length, "model")} chosen`;
    links["compare.html"].hidden = names.length !== 2;
    const pair = names.slice(0, 2).map((name, k) => ["ab"[k], name]);
    links["compare.html"].href = `compare.html?${new URLSearchParams(pair)}`;
    const all = names.map((name) => ["m", name]);
    links["curves.html"].href = `curves.html?${new URLSearchParams(all)}`;
  }

  for (const box of boxes) {
    box.addEventListener("change", () => {
      if (box.checked) models.add(box.value);
      else models.delete(box.value);
      show();
    });
  }
  panel.querySelector("button").addEventListener("click", () => {
    models.clear();
    show();
  });
  show();
}
