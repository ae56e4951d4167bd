"use strict";
// Routing, live updates, the token form, the theme.
(() => {
  const LIVE_MS = 2000;
  const IDLE_MS = 10000;
  const { h } = dom;
  const ROUTES = [
    [/^\/(?:runs)?$/, runs.view, "#/"],
    [/^\/overlay$/, overlay.view, "#/"],
    [/^\/runs\/([^/]+)$/, run.view, "#/"],
    [/^\/comparisons$/, lists.comparisons, "#/comparisons"],
    [/^\/comparisons\/([^/]+)$/, comparison.view, "#/comparisons"],
    [/^\/features$/, lists.features, "#/features"],
    [/^\/features\/([^/]+)$/, lists.feature, "#/features"],
  ];
  const main = document.getElementById("main");
  const connection = document.getElementById("connection");
  const live = document.getElementById("live");
  const themeSelect = document.getElementById("theme");
  let view = null;
  let aborter = new AbortController(); // of the current view
  let stream = null; // aborts the events of the current view
  let timer = 0;
  let shown = "";

  const home = api.report ? `#/runs/${api.part(api.report.run)}` : "#/";
  const split = () =>
    (location.hash.startsWith("#/") ? location.hash : home).slice(1).split(/\?(.*)/s);
  const announce = (text) => {
    live.textContent = text;
  };

  // Changes the query of the URL without a history entry, and returns it.
  function setQuery(changes = {}) {
    const [path, text] = split();
    const query = new URLSearchParams(text);
    for (const [name, value] of Object.entries(changes))
      value === null ? query.delete(name) : query.set(name, value);
    if (Object.keys(changes).length)
      history.replaceState(null, "", `#${path}${query.size ? `?${query}` : ""}`);
    return query;
  }

  function decoded(values) {
    try {
      return values.map(decodeURIComponent);
    } catch {
      return values;
    }
  }

  async function open() {
    const [path, text] = split();
    if (view && path === shown) return tick(); // only the query changed: the view reads it itself
    clearTimeout(timer);
    unfollow();
    aborter.abort();
    aborter = new AbortController();
    charts.closeAll();
    [view, shown] = [null, path];
    const { signal } = aborter;
    const [pattern, make, section] = ROUTES.find(([route]) => route.test(path)) ?? [];
    for (const link of document.querySelectorAll("#nav a"))
      link.getAttribute("href") === section
        ? link.setAttribute("aria-current", "page")
        : link.removeAttribute("aria-current");
    main.setAttribute("aria-busy", "true");
    const before = main.firstElementChild;
    const showLoading = () =>
      main.firstElementChild === before && main.replaceChildren(dom.quiet("Loading …"));
    const slow = setTimeout(showLoading, 200); // no flicker if the response is fast
    try {
      if (!make)
        throw new api.Problem({
          title: "Page not found",
          status: 404,
          detail: `Unknown address: ${path}.`,
        });
      view = await make({
        main,
        params: decoded(path.match(pattern).slice(1)),
        query: new URLSearchParams(text),
        signal,
        announce,
        setQuery,
      });
      finish(view.title);
      view.opened?.();
      await charts.ready();
    } catch (error) {
      if (signal.aborted) return;
      charts.closeAll();
      fail(error);
    } finally {
      clearTimeout(slow);
      if (!signal.aborted) main.removeAttribute("aria-busy");
    }
    if (view) schedule();
  }

  function finish(title) {
    document.title = `${title} · Remix`;
    connection.textContent = "";
    if (finish.before) {
      scrollTo(0, 0);
      main.querySelector("h1")?.focus({ preventScroll: true });
    }
    finish.before = true;
  }

  function fail(error) {
    if (error.status === 401) return askToken(error);
    if (!(error instanceof api.Problem)) console.error(error);
    const back = h(
      "p",
      {},
      h("a", { href: home }, api.report ? "Back to the report" : "Back to the runs"),
    );
    const last = decoded([shown.split("/").pop()])[0] || "runs";
    const name = shown.lastIndexOf("/") > 0 ? last : last[0].toUpperCase() + last.slice(1);
    main.replaceChildren(h("h1", { tabindex: -1 }, name), dom.problem(error, back));
    finish("Error");
    if (!error.status || error.status === 503) timer = setTimeout(open, IDLE_MS);
  }

  function askToken(error) {
    const input = h("input", {
      type: "password",
      id: "token",
      autocomplete: "current-password",
      required: true,
    });
    const submit = (event) => {
      event.preventDefault();
      api.token(input.value.trim());
      [shown, view] = ["", null];
      open();
    };
    const wrong = api.token()
      ? h("p", { role: "alert" }, "The service rejected this token. ", error.detail)
      : h(
          "p",
          { class: "quiet" },
          "The token is the value of REMIX_TOKEN that the service was started with. This tab remembers it until you close it.",
        );
    main.replaceChildren(
      h("h1", { tabindex: -1 }, "Token required"),
      wrong,
      h(
        "form",
        { class: "bar", onsubmit: submit },
        h("label", { for: "token" }, "Token"),
        input,
        h("button", {}, "Continue"),
      ),
    );
    document.title = "Token · Remix";
    input.focus();
  }

  function schedule() {
    clearTimeout(timer);
    if (api.report || document.hidden || stream) return;
    if (view.isLive() && view.events && events.available()) follow();
    else timer = setTimeout(tick, view.isLive() ? LIVE_MS : IDLE_MS);
  }

  // Updates the view at each event in place of polling; a hidden page holds no connection.
  function follow() {
    const own = (stream = new AbortController());
    const end = () => {
      if (stream !== own) return;
      stream = null;
      if (view) tick();
    };
    events.follow(view.events, own.signal, () => stream === own && tick()).then(end, end);
  }

  function unfollow() {
    stream?.abort();
    stream = null;
  }

  async function tick() {
    clearTimeout(timer);
    const { signal } = aborter;
    try {
      await view.refresh();
      connection.textContent = "";
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      if (error.status === 401) {
        charts.closeAll();
        unfollow();
        view = null;
        return askToken(error);
      }
      if (!(error instanceof api.Problem)) console.error(error);
      connection.textContent = error.title ?? "Update failed";
    }
    if (view && !signal.aborted) schedule();
  }

  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
    main.scrollIntoView();
  });
  document.addEventListener("visibilitychange", () =>
    document.hidden ? (clearTimeout(timer), unfollow()) : view && tick(),
  );
  addEventListener("hashchange", open);
  themeSelect.value = theme.chosen();
  themeSelect.addEventListener("change", () => theme.choose(themeSelect.value));
  if (api.report) document.getElementById("nav").hidden = true;
  open();
})();
