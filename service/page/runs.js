"use strict";
// The list of runs: sorted, filtered, grouped by comparison, and selected for an overlay. All of
// this is in the query of the URL.
const runs = (() => {
  const { badge, chip, h, paged } = dom;
  const LIMIT = 100;
  const MAX_KNOWN = 1000; // runs whose methods and features are offered as filters
  const STATES = ["created", "running", "finished", "interrupted", "failed", "damaged"];
  const FILTERS = ["status", "method", "features"];
  const EMPTY =
    "The store has no runs yet. Run `remix train CONFIG.yaml` to train one, or `make demo` for some small examples.";

  async function view({ main, signal, setQuery }) {
    let live = false;
    const empty = h("span");
    const selects = new Map(FILTERS.map((name) => [name, select(name)]));
    const group = h("input", {
      type: "checkbox",
      id: "by-comparison",
      onchange: () => change({ group: group.checked ? "1" : null }),
    });
    const overlayButton = h("button", { type: "button", id: "overlay", onclick: compare });
    const { columns, mark } = sortable.columns(
      [
        { name: "run", key: "name", head: true },
        { name: "status" },
        { name: "validation accuracy", num: true },
        { name: "test accuracy", key: "accuracy", num: true },
        { name: "assembled", num: true },
        { name: "epochs", num: true, wide: true },
        { name: "method", wide: true },
        { name: "features", wide: true },
        { name: "modalities", wide: true },
        { name: "updated", key: "updated", wide: true },
      ],
      sortBy,
    );
    const rows = paged({ caption: "Runs", columns, load, limit: LIMIT, empty, row, arrange });
    const bar = h(
      "div",
      { class: "bar", role: "group", "aria-label": "Filters" },
      FILTERS.map((name) => h("label", { class: "note" }, `${name} `, selects.get(name))),
      h("label", { class: "note", for: "by-comparison" }, group, " group by comparison"),
      overlayButton,
    );

    function select(name) {
      const onchange = (event) => change({ [name]: event.target.value || null });
      return h("select", { id: `filter-${name}`, onchange }, h("option", { value: "" }, "any"));
    }

    function offer(name, values) {
      const chosen = setQuery().get(name);
      const all = [...new Set([...values, ...(chosen ? [chosen] : [])])];
      const options = ["", ...all].map((value) => h("option", { value }, value || "any"));
      selects.get(name).replaceChildren(...options);
    }

    const order = () => setQuery().get("sort") ?? "name";
    const selected = () => (setQuery().get("select") ?? "").split(",").filter(Boolean);

    function sortBy(key) {
      const same = order().replace("-", "") === key;
      // names begin with the first, numbers and times with the highest
      const descending = same ? !order().startsWith("-") : key !== "name";
      change({ sort: `${descending ? "-" : ""}${key}` });
    }

    async function change(changes) {
      setQuery(changes);
      show();
      await rows.first();
    }

    // Shows the state of the query in the controls.
    function show() {
      const query = setQuery();
      for (const [name, element] of selects) element.value = query.get(name) ?? "";
      group.checked = query.has("group");
      mark(order().replace("-", ""), order().startsWith("-"));
      const filtered = FILTERS.some((name) => query.get(name));
      empty.textContent = filtered ? "No run matches these filters." : EMPTY;
      showSelection();
    }

    function showSelection() {
      const own = selected();
      overlayButton.textContent = own.length ? `Overlay ${format.count(own.length, "run")}` : "Overlay";
      overlayButton.setAttribute("aria-disabled", String(own.length < 2));
      overlayButton.title = `Select 2 to ${overlay.MAX_RUNS} runs of the list`;
      for (const box of rows.element.querySelectorAll("input[type=checkbox]")) {
        box.checked = own.includes(box.value);
        box.toggleAttribute("checked", box.checked);
        box.disabled = !box.checked && own.length >= overlay.MAX_RUNS;
      }
    }

    function toggle(event) {
      const { checked, value } = event.target;
      const others = selected().filter((name) => name !== value);
      const own = checked ? [...others, value] : others;
      setQuery({ select: own.length ? own.join(",") : null });
      showSelection();
    }

    function compare() {
      if (selected().length >= 2) location.hash = overlay.address(selected());
    }

    async function load(start, limit) {
      const query = setQuery();
      const filters = FILTERS.filter((name) => query.get(name));
      const chosen = filters.map((name) => `&${name}=${api.part(query.get(name))}`).join("");
      const sort = order() === "name" ? "" : `&sort=${api.part(order())}`;
      const page = await api.get(api.pagePath("v1/runs", start, limit, chosen + sort), signal);
      live = page.items.some(lists.isLive);
      return page;
    }

    function row(run) {
      if (run.status === "damaged") return [run.name, [badge("damaged"), " ", run.error]];
      const own = selected();
      const box = h("input", {
        type: "checkbox",
        value: run.name,
        "aria-label": `Select ${run.name}`,
        checked: own.includes(run.name),
        disabled: !own.includes(run.name) && own.length >= overlay.MAX_RUNS,
        onchange: toggle,
      });
      const style = charts.palette(run.modalities);
      const error = run.error
        ? [" ", h("span", { class: "cut wide", title: run.error }, run.error)]
        : null;
      return [
        [box, lists.link("runs", run.name)],
        [badge(run.status), error],
        run.best
          ? [
              format.percent(run.best.validation_accuracy),
              h("small", {}, ` (epoch ${run.best.epoch}${run.best.in_warmup ? ", warm-up" : ""})`),
            ]
          : format.NONE,
        format.percent(run.test_accuracy?.fused),
        format.percent(run.assembled?.test_accuracy.fused),
        lists.epochs(run),
        run.method,
        lists.link("features", run.features.name),
        run.modalities.map((name) => [chip(name, style(name).colour), " "]),
        h("time", { datetime: run.updated }, format.when(run.updated)),
      ];
    }

    // The rows of a page, under the names of their comparisons if they are grouped.
    function arrange(items) {
      if (!setQuery().has("group")) return items.map(row);
      const names = [...new Set(items.flatMap((run) => run.comparisons ?? []))].sort();
      const groups = [
        ...names.map((name) => [
          ["Comparison ", lists.link("comparisons", name)],
          items.filter((run) => run.comparisons?.includes(name)),
        ]),
        ["No comparison", items.filter((run) => !run.comparisons?.length)],
      ];
      return groups.flatMap(([title, own]) =>
        own.length ? [[h("strong", {}, title)], ...own.map(row)] : [],
      );
    }

    const first = await load(0, LIMIT);
    const known = await api.get(api.pagePath("v1/runs", 0, MAX_KNOWN), signal);
    const fine = known.items.filter((run) => run.status !== "damaged");
    offer("status", STATES);
    offer("method", fine.map((run) => run.method).sort());
    offer("features", fine.map((run) => run.features.name).sort());
    bar.hidden = !known.items.length;
    main.replaceChildren(lists.head("Runs"), bar, rows.element);
    show();
    if (first) await rows.reset();
    return {
      title: "Runs",
      refresh: async () => {
        show();
        await rows.refresh();
      },
      isLive: () => live,
    };
  }

  return { view };
})();
