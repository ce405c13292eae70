import {
  columnFilteringFeature,
  constructTable,
  createFilteredRowModel,
  createSortedRowModel,
  globalFilteringFeature,
  rowSortingFeature,
  tableFeatures,
} from "@tanstack/table-core";
import { storeReactivityBindings } from "@tanstack/table-core/store-reactivity-bindings";
import { make } from "./dom.js";

const features = tableFeatures({
  coreReactivityFeature: storeReactivityBindings(),
  rowSortingFeature,
  columnFilteringFeature,
  globalFilteringFeature,
  sortedRowModel: createSortedRowModel(),
  filteredRowModel: createFilteredRowModel(),
});

const TEXTS = ["model", "family", "certificate", "suite"];
// A rank of 1 is the best, and so is the lowest cost; of shares, the highest.
const ASCENDING_FIRST = [...TEXTS, "certified_rank", "empirical_rank", "seconds"];
const collator = new Intl.Collator("en", { numeric: true });

const compareTexts = (a, b, id) => collator.compare(a.getValue(id), b.getValue(id));
const compareNumbers = (a, b, id) => a.getValue(id) - b.getValue(id);
const equals = (row, id, wanted) => row.getValue(id) === wanted;

function column(id) {
  const isText = TEXTS.includes(id);
  return {
    id,
    // A value that is missing is sorted last in both directions.
    accessorFn: (row) => row[id] ?? undefined,
    sortFn: isText ? compareTexts : compareNumbers,
    sortUndefined: "last",
    sortDescFirst: !ASCENDING_FIRST.includes(id),
    filterFn: equals,
  };
}

const sortable = [...TEXTS, "certified_rank", "empirical_rank", "certified", "empirical"];
const columns = [
  ...[...sortable, "low", "clean", "seconds"].map(column),
  {
    id: "by",
    accessorFn: (row) => row.certifiers,
    enableSorting: false,
    filterFn: (row, id, wanted) => row.getValue(id).some((one) => one.split("(")[0] === wanted),
  },
];

const searchText = (row) =>
  [row.model, row.family, row.suite, row.certificate, ...row.certifiers, ...row.attacks]
    .join(" ")
    .toLowerCase();

/** Each word of a search stands somewhere in the row. */
function holdsWords(row, _id, text) {
  return text.split(/\s+/).every((word) => row.original.text.includes(word));
}

/** Let the headings of a table sort it, and return what filters it.
 * Rows never leave their part of the table: what is not ranked stays apart.
 * @param {HTMLElement} section
 * @returns {{apply: (filters: Record<string, string>) => number, total: number}}
 */
export function board(section) {
  const element = section.querySelector("table");
  const rows = [...element.querySelectorAll("tr[data-row]")];
  const data = rows.map((row) => {
    const values = JSON.parse(row.dataset.row);
    return { ...values, row, home: row.parentElement, text: searchText(values) };
  });
  const table = constructTable({
    features,
    columns,
    data,
    getRowId: (row) => row.row.id,
    enableSortingRemoval: true,
    enableMultiSort: false,
    globalFilterFn: holdsWords,
    getColumnCanGlobalFilter: (one) => one.id === "model",
  });
  const headings = [...element.querySelectorAll("th[data-sort]")];

  function show() {
    const shown = table.getRowModel().rows.map((row) => row.original);
    const kept = new Set(shown.map((one) => one.row));
    for (const one of data) one.row.hidden = !kept.has(one.row);
    for (const one of shown) one.home.append(one.row);
    for (const body of element.tBodies) {
      body.hidden = !body.querySelector("tr[data-row]:not([hidden])");
    }
    section.hidden = shown.length === 0;
    for (const heading of headings) {
      const direction = table.getColumn(heading.dataset.sort).getIsSorted();
      if (direction) heading.setAttribute("aria-sort", `${direction}ending`);
      else heading.removeAttribute("aria-sort");
    }
    // Lines between groups of one rank mean nothing in another order.
    const isByRank = table.atoms.sorting.get().length === 0;
    element.classList.toggle("by-rank", isByRank);
    return shown.length;
  }

  for (const heading of headings) {
    const sort = () => {
      table.getColumn(heading.dataset.sort).toggleSorting();
      show();
    };
    heading.replaceChildren(make("button", { type: "button", click: sort }, ...heading.childNodes));
  }

  return {
    total: data.length,
    apply(filters) {
      const { dataset, norm, eps } = section.dataset;
      const wanted = { dataset, norm, eps };
      const isHere = Object.entries(wanted).every(([k, v]) => !filters[k] || filters[k] === v);
      if (!isHere) {
        section.hidden = true;
        return 0;
      }
      const kind = filters.certificate;
      const conditions = [
        ["family", filters.family],
        kind.startsWith("by ") ? ["by", kind.slice(3)] : ["certificate", kind],
      ];
      table.setColumnFilters(
        conditions.filter(([, value]) => value).map(([id, value]) => ({ id, value })),
      );
      table.setGlobalFilter(filters.search.trim().toLowerCase());
      return show();
    },
  };
}
