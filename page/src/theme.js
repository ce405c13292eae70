// Runs before the first paint: the theme that the reader chose, and that scripts run at all.
const root = document.documentElement;
root.classList.add("js");
try {
  const kept = localStorage.getItem("dynbench-theme");
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
} catch {
  // Some browsers keep nothing for pages opened from a disk.
}
