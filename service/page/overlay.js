"use strict";
// Up to four runs in the same panels, what their configurations do not share, and their results.
const overlay = (() => {
  const { badge, chip, h, table } = dom;
  const MAX_RUNS = 4;
  // hues of methods, not of modalities; lines also differ by dash and symbol
  const STYLES = [
    { colour: "var(--ink)", dash: "solid", symbol: "circle" },
    { colour: "var(--a2)", dash: "dash", symbol: "square" },
    { colour: "var(--a1)", dash: "dot", symbol: "diamond" },
    { colour: "var(--a3)", dash: "dashdot", symbol: "triangle-up" },
  ];

  const address = (names) => `#/overlay?runs=${names.map(api.part).join(",")}`;
  const part = (title, note, ...children) =>
    h("section", { class: "part" }, h("h2", {}, title), h("p", { class: "note" }, note), ...children);

  async function view({ main, signal, setQuery }) {
    let shown = "";
    let names = [];
    let loaded = [];
    let panels = [];
    const configs = h("div");
    const results = h("div");

    async function refresh() {
      const asked = setQuery().get("runs") ?? "";
      names = [...new Set(asked.split(",").filter(Boolean))];
      if (!names.length || names.length > MAX_RUNS)
        throw new api.Problem({
          title: "No runs to show",
          status: 404,
          detail: `Select 2 to ${MAX_RUNS} runs in the list of runs, then Overlay.`,
        });
      const load = (name) =>
        Promise.all([api.get(api.runPath(name), signal), api.all(`${api.runPath(name)}/epochs`, signal)]);
      const before = loaded.flat();
      loaded = await Promise.all(names.map(load));
      if (asked === shown && loaded.flat().every((value, i) => value === before[i])) return;
      if (asked !== shown) build();
      shown = asked;
      draw();
    }

    function build() {
      charts.closeAll();
      const modalities = [...new Set(loaded.flatMap(([detail]) => detail.modalities))];
      const heads = [["fused", "Fused head"], ...modalities.map((name) => [name, `Unimodal head: ${name}`])];
      const own = (row, head, key) => (head === "fused" ? row[key] : row.modalities[head]?.[key]);
      const panel = (kind, [head, title], value) => ({
        kind,
        value,
        chart: charts.figure(`${kind}-${head}`, title),
      });
      panels = [
        ...heads.map((head) => panel("accuracy", head, (row) => own(row, head[0], "validation_accuracy"))),
        ...heads.map((head) => panel("loss", head, (row) => own(row, head[0], "calibrated_loss"))),
        ...modalities.map((name) =>
          panel("share", [name, `Share of samples: ${name}`], (row) => row.modalities[name]?.share),
        ),
      ];
      const grid = (kind) =>
        h(
          "div",
          { class: "grid small" },
          panels.filter((each) => each.kind === kind).map((each) => each.chart.element),
        );
      main.replaceChildren(
        h(
          "div",
          { class: "head" },
          h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Runs"), " /"),
          h("h1", { tabindex: -1 }, `Overlay of ${format.count(names.length, "run")}`),
          h("p", { class: "bar" }, names.map((name, i) => chip(name, STYLES[i].colour))),
        ),
        part("Results", "Test accuracy of the tested epoch's model and of the assembled one.", results),
        part("Configuration", "The settings that differ, and nothing else.", configs),
        part("Validation accuracy", "A ring marks the tested epoch. All panels have one range.", grid("accuracy")),
        part(
          "Calibrated validation loss",
          "Cross-entropy after the logits are divided by the best temperature.",
          grid("loss"),
        ),
        part("Share of samples per modality", "Samples assigned to each modality after warm-up.", grid("share")),
      );
    }

    function draw() {
      results.replaceChildren(resultTable());
      configs.replaceChildren(differences());
      const last = Math.max(0, ...loaded.map(([detail]) => detail.planned_epochs - 1));
      for (const kind of ["accuracy", "loss", "share"]) {
        const own = panels.filter((each) => each.kind === kind);
        const values = own
          .flatMap(({ value }) => loaded.flatMap(([, rows]) => rows.map(value)))
          .filter(format.known);
        const y = axis(kind, values);
        for (const each of own) each.chart.draw(() => spec(each, y, last));
      }
    }

    function axis(kind, values) {
      if (kind === "loss")
        return { title: { text: "cross-entropy" }, range: [0, 1.05 * Math.max(0.1, ...values)], hoverformat: ".3f" };
      if (kind === "share") return { ...charts.percentAxis, title: { text: "samples" }, range: [0, 1.02] };
      return { ...(values.length ? charts.closeUp(values) : {}), title: { text: "accuracy" } };
    }

    function spec({ kind, value }, y, last) {
      const text = kind === "loss" ? format.fixed : format.percent;
      const at = (rows, epoch) => {
        const row = rows.find((each) => each.epoch === epoch);
        return (row && value(row)) ?? null;
      };
      const tested = loaded.map(([detail]) => detail.best?.epoch ?? null);
      const epochs = [...new Set(loaded.flatMap(([, rows]) => rows.map((row) => row.epoch)))];
      const lines = loaded.map(([, rows], i) =>
        charts.line(names[i], rows.map((row) => row.epoch), rows.map((row) => value(row) ?? null), STYLES[i]),
      );
      const rings = charts.rings("tested", tested, loaded.map(([, rows], i) => at(rows, tested[i])));
      return {
        traces: kind === "share" ? lines : [...lines, rings],
        summary: loaded
          .map(([, rows], i) => `${names[i]} ${text(rows.length ? value(rows.at(-1)) : null)}`)
          .join(", "),
        empty: lines.some((line) => line.y.some(format.known)) ? null : "No run has these numbers.",
        layout: { x: charts.epochAxis(0, last), y },
        columns: [
          { name: "epoch", num: true, head: true },
          ...names.map((name) => ({ name, num: true })),
        ],
        rows: epochs
          .sort((a, b) => a - b)
          .map((epoch) => [String(epoch), ...loaded.map(([, rows]) => text(at(rows, epoch)))]),
      };
    }

    function resultTable() {
      const heads = [...new Set(loaded.flatMap(([detail]) => Object.keys(detail.test_accuracy ?? {})))];
      const rows = table("Results", [
        { name: "run", head: true },
        { name: "status" },
        { name: "method" },
        { name: "seed", num: true },
        { name: "epochs", num: true },
        { name: "tested epoch", num: true },
        ...heads.map((name) => ({ name, num: true })),
        { name: "assembled", num: true },
      ]);
      rows.update(
        loaded.map(([detail], i) => [
          h("span", { class: "chip", style: dom.colour(STYLES[i].colour) }, lists.link("runs", names[i])),
          badge(detail.status),
          detail.method,
          String(detail.seed),
          lists.epochs(detail),
          detail.best
            ? [String(detail.best.epoch), detail.best.in_warmup ? [" ", badge("warm-up")] : null]
            : format.NONE,
          ...heads.map((name) => format.percent(detail.test_accuracy?.[name])),
          format.percent(detail.assembled?.test_accuracy.fused),
        ]),
      );
      return rows.element;
    }

    function differences() {
      const flat = loaded.map(([detail]) => flatten({ ...detail.config, name: undefined }));
      const keys = [...new Set(flat.flatMap((each) => [...each.keys()]))].sort();
      const differing = keys.filter((key) => new Set(flat.map((each) => each.get(key))).size > 1);
      if (!differing.length) return dom.quiet("All settings are the same.");
      const rows = table("Differences of the configurations", [
        { name: "setting", head: true },
        ...names.map((name) => ({ name })),
      ]);
      rows.update(differing.map((key) => [key, ...flat.map((each) => each.get(key) ?? format.NONE)]));
      return rows.element;
    }

    await refresh();
    return {
      title: "Overlay",
      refresh,
      isLive: () => loaded.some(([detail]) => lists.isLive(detail)),
    };
  }

  // Values as text, by dotted key.
  function flatten(value, prefix = "", into = new Map()) {
    for (const [key, own] of Object.entries(value)) {
      if (own === undefined) continue;
      if (own !== null && typeof own === "object" && !Array.isArray(own) && Object.keys(own).length)
        flatten(own, `${prefix}${key}.`, into);
      else into.set(`${prefix}${key}`, typeof own === "string" ? own : JSON.stringify(own));
    }
    return into;
  }

  return { address, MAX_RUNS, view };
})();
