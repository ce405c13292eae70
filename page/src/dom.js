/** Make an element. Texts become text nodes, so that no name is ever read as markup.
 * @param {string} name
 * @param {Record<string, string | number | boolean | ((event: Event) => void)>} attributes
 * @param {...(Node | string)} children
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  set(element, attributes);
  element.append(...children);
  return element;
}

/** The same for SVG. */
export function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false) element.setAttribute(key, String(value));
  }
}

/** What the page carries for its script. */
export function embedded() {
  return JSON.parse(document.getElementById("data").textContent);
}

export const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1));

/** A name that may break after a slash or an underscore, as in the tables. */
export function breakable(name) {
  const parts = name.split(/(?<=[/_])/);
  return make("span", { class: "name" }, ...parts.flatMap((part) => [part, make("wbr")]));
}

/** Parts of the address after the question mark, repeated ones in their order. */
export const asked = (name) => new URLSearchParams(location.search).getAll(name);

/** Write what is shown into the address, so that it can be kept and sent. */
export function remember(pairs) {
  try {
    history.replaceState(null, "", `?${new URLSearchParams(pairs)}`);
  } catch {
    // Some browsers refuse this of pages opened from a disk.
  }
}
