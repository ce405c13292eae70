import { bracket } from "./bracket.js";
import { asked, breakable, embedded, make, percent, remember } from "./dom.js";
import { mcnemar, pValue } from "./statistics.js";

const NAMES = {
  C: "certified",
  U: "undecided",
  B: "broken",
  M: "misclassified",
  E: "error",
};
const ORDER = [..."CUBME"];
const STANDING = "CU";
// More would be a wall of numbers; the Parquet files have all of them.
const MOST_LISTED = 200;

/** The page that compares two models on the images that both were run on. */
export function comparePage() {
  const rows = embedded();
  const models = [...new Set(rows.map((row) => row.model))].sort();
  const form = document.getElementById("pick");
  const { a, b } = form.elements;
  for (const select of [a, b]) select.append(...models.map((model) => new Option(model, model)));
  const known = (name) => asked(name).find((model) => models.includes(model));
  a.value = known("a") ?? models[0];
  const partner = (model) => models.find((other) => other !== model && pairs(rows, model, other)[0]);
  b.value = known("b") ?? partner(a.value) ?? models[0];

  function show() {
    const place = document.getElementById("comparison");
    remember([["a", a.value], ["b", b.value]]);
    if (a.value === b.value) {
      place.replaceChildren(make("p", { class: "nothing" }, "Choose two different models."));
      return;
    }
    const found = pairs(rows, a.value, b.value);
    place.replaceChildren(
      ...(found.length
        ? found.map(([one, other]) => card(one, other))
        : [make("p", { class: "nothing" }, "No table has both models on the same images.")]),
    );
  }

  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("swap").addEventListener("click", () => {
    [a.value, b.value] = [b.value, a.value];
    show();
  });
  show();
}

/** Rows of the two models on the same images; of several suites, each with each. */
function pairs(rows, first, second) {
  const others = rows.filter((row) => row.model === second);
  return rows
    .filter((row) => row.model === first)
    .flatMap((row) => others.filter((o) => o.images === row.images).map((other) => [row, other]));
}

function card(a, b) {
  const suites = a.suite === b.suite ? "" : `, suites ${a.suite} and ${b.suite}`;
  const about = `${a.n.toLocaleString("en")} images${suites}`;
  return make(
    "section",
    { class: "pair" },
    make("h2", {}, a.title, make("span", { class: "threat" }, about)),
    make("table", { class: "ranking pairing" }, head(), make("tbody", {}, line("A", a), line("B", b))),
    ...(a.statuses && b.statuses
      ? evidence(a, b)
      : [make("p", { class: "fine" }, "The verdicts behind one of the two rows are not published.")]),
  );
}

function head() {
  const cell = (text, kind = "") => make("th", { scope: "col", class: kind }, text);
  return make(
    "thead",
    {},
    make(
      "tr",
      {},
      cell("Model", "model"),
      cell("Certified to empirical", "bars"),
      cell("Certified %", "num"),
      cell("Empirical %", "num"),
      cell("95 % interval", "num extra"),
      cell("Clean %", "num extra"),
    ),
  );
}

function line(letter, row) {
  const cell = (text, kind) => make("td", { class: kind }, text);
  return make(
    "tr",
    {},
    make(
      "th",
      { scope: "row", class: "model" },
      make("span", { class: "letter" }, letter),
      make("a", { href: row.page }, breakable(row.label)),
    ),
    make("td", { class: "bars" }, bracket(row)),
    cell(percent(row.certified), "num strong"),
    cell(percent(row.empirical), "num strong"),
    cell(`${percent(row.low)}–${percent(row.high)}`, "num extra"),
    cell(percent(row.clean), "num extra"),
  );
}

function evidence(a, b) {
  const statuses = [...a.statuses].map((letter, k) => [letter, b.statuses[k]]);
  const ids = statuses.map((pair, k) => [a.first + k, ...pair]).filter(([, x, y]) => x !== y);
  return [
    make(
      "ul",
      { class: "tests" },
      test("Certified", statuses, (letter) => letter === "C"),
      test("Empirical", statuses, (letter) => STANDING.includes(letter)),
    ),
    details("Verdicts of both, counted", contingency(statuses)),
    details(`Examples that differ: ${ids.length}`, differing(ids)),
  ];
}

function test(what, statuses, holds) {
  const only = (mine) =>
    statuses.filter(([x, y]) => holds(mine ? x : y) && !holds(mine ? y : x)).length;
  const [onlyA, onlyB] = [only(true), only(false)];
  const p = mcnemar(onlyA, onlyB);
  const better = onlyA > onlyB ? "A" : "B";
  const verdict = p <= 0.05 ? `${better} is better at 5 %` : "no difference can be told at 5 %";
  return make(
    "li",
    {},
    make("b", {}, what),
    ` only A ${onlyA}, only B ${onlyB}; p = `,
    make("span", { class: "p" }, pValue(p)),
    `: ${verdict}.`,
  );
}

function details(title, ...content) {
  return make("details", {}, make("summary", {}, title), ...content);
}

function contingency(statuses) {
  const used = ORDER.filter((letter) => statuses.some((pair) => pair.includes(letter)));
  const count = (x, y) => statuses.filter((pair) => pair[0] === x && pair[1] === y).length;
  const cell = (x, y) => {
    const n = count(x, y);
    return make("td", { class: x === y ? "num same" : n ? "num differs" : "num none" }, String(n));
  };
  return make(
    "div",
    { class: "wide", tabindex: 0, role: "region", "aria-label": "Verdicts of both" },
    make(
      "table",
      { class: "plain contingency" },
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, "A ↓  B →"),
          ...used.map((y) => make("th", { scope: "col", class: "num" }, NAMES[y])),
        ),
      ),
      make(
        "tbody",
        {},
        ...used.map((x) =>
          make("tr", {}, make("th", { scope: "row" }, NAMES[x]), ...used.map((y) => cell(x, y))),
        ),
      ),
    ),
  );
}

/** Ids by the pair of verdicts, since a list by id is a wall of text. */
function differing(ids) {
  const groups = Map.groupBy
    ? Map.groupBy(ids, ([, x, y]) => x + y)
    : ids.reduce((map, one) => map.set(one[1] + one[2], [...(map.get(one[1] + one[2]) ?? []), one]), new Map());
  const list = make("dl", { class: "differing" });
  for (const x of ORDER) {
    for (const y of ORDER) {
      const group = groups.get(x + y);
      if (!group) continue;
      const left = group.length - MOST_LISTED;
      const text = group.slice(0, MOST_LISTED).map(([id]) => id).join(", ");
      list.append(
        make("dt", {}, `A ${NAMES[x]}, B ${NAMES[y]} (${group.length})`),
        make("dd", {}, left > 0 ? `${text} and ${left} more` : text),
      );
    }
  }
  return list;
}
