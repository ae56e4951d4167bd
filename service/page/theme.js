"use strict";
// The colour scheme: that of the system unless the user chose one. Loaded first, to avoid a flash
// of the wrong one.
const theme = (() => {
  const KEY = "remix-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const listeners = new Set();

  function chosen() {
    try {
      return localStorage.getItem(KEY) ?? "";
    } catch {
      return "";
    } // storage may be blocked, as for some file:// pages
  }

  function apply(value) {
    if (value === "light" || value === "dark") document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    for (const listener of listeners) listener();
  }

  function choose(value) {
    try {
      localStorage.setItem(KEY, value);
    } catch {
      /* the choice is lost when the page closes */
    }
    apply(value);
  }

  system.addEventListener("change", () => apply(chosen()));
  apply(chosen());
  return { choose, chosen, onChange: (listener) => listeners.add(listener) };
})();
