"use strict";
// The colour scheme, set before the first paint: the system's, or the one that was chosen here.
const theme = (() => {
  const KEY = "remix-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const listeners = new Set();

  function chosen() {
    try { return localStorage.getItem(KEY) ?? ""; } catch { return ""; } // storage may be forbidden, as for some file:// pages
  }

  function apply(value) {
    if (value === "light" || value === "dark") document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    for (const listener of listeners) listener();
  }

  function choose(value) {
    try { localStorage.setItem(KEY, value); } catch { /* the choice then lasts as long as the page */ }
    apply(value);
  }

  system.addEventListener("change", () => apply(chosen()));
  apply(chosen());
  return { choose, chosen, onChange: (listener) => listeners.add(listener) };
})();
