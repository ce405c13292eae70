import { comparePage } from "./compare.js";
import { curvesPage } from "./curves.js";
import { index } from "./index.js";
import { modelPage } from "./model.js";

const PAGES = { index, curves: curvesPage, compare: comparePage, model: modelPage };
const THEMES = ["system", "light", "dark"];

function themeSwitch() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const show = () => {
    button.textContent = `Theme: ${root.dataset.theme ?? "system"}`;
  };
  button.addEventListener("click", () => {
    const now = THEMES.indexOf(root.dataset.theme ?? "system");
    const next = THEMES[(now + 1) % THEMES.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (next === "system") localStorage.removeItem("dynbench-theme");
      else localStorage.setItem("dynbench-theme", next);
    } catch {
      // The choice then lasts for this page.
    }
    show();
  });
  button.removeAttribute("aria-label");
  show();
}

themeSwitch();
PAGES[document.body.dataset.page]?.();
