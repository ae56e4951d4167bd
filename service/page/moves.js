"use strict";
// Two plans side by side: which samples moved, from where to where.
const moves = (() => {
  const { chip, h, table } = dom;
  const LIMIT = api.report ? 25 : 100;

  // sampleLink(id): a link that opens the sample.
  function part(run, modalities, { sampleLink }) {
    const style = charts.palette(modalities);
    const select = h("select", { id: "moves-epoch", onchange: () => choose() });
    const heading = h("h3", {}, "Samples that moved between two plans");
    const bar = h(
      "div",
      { class: "bar", hidden: Boolean(api.report) },
      h("label", { for: "moves-epoch", class: "note" }, "Compare with epoch"),
      select,
    );
    const summary = h("p", { class: "note", id: "moves-summary" });
    const matrix = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Moves" });
    const list = table("Moved samples", [
      { name: "sample", head: true },
      { name: "class", wide: true },
      { name: "from" },
      { name: "to" },
    ]);
    const errors = h("div");
    const body = h("div", { class: "part moved" }, summary, matrix, list.element);
    const element = h("div", { class: "part" }, heading, bar, errors, body);
    let wanted = null; // the epoch that the reader chose, or null for the one before
    let shown = null; // [epochs, epoch, abort]

    const label = (name) => (name === null ? "no batch" : name === "all" ? "all modalities" : name);
    const named = (name) =>
      chip(label(name), modalities.includes(name) ? style(name).colour : "var(--neutral)");

    async function choose() {
      wanted = Number(select.value);
      await show(...shown);
    }

    async function show(epochs, epoch, abort) {
      shown = [epochs, epoch, abort];
      const others = epochs.filter((each) => each !== epoch);
      element.hidden = !others.length;
      if (!others.length) return;
      const before = others.filter((each) => each < epoch).at(-1) ?? others[0];
      const from = others.includes(wanted) ? wanted : before;
      if (api.report && from > epoch) return void (element.hidden = true);
      select.replaceChildren(
        ...others.map((each) =>
          h("option", { value: each, selected: each === from }, String(each)),
        ),
      );
      try {
        const path = `${api.runPath(run)}/plans/${from}/moves?to=${epoch}&limit=${LIMIT}`;
        const loaded = await api.get(path, abort);
        if (abort.aborted) return;
        errors.replaceChildren();
        body.hidden = false;
        draw(loaded);
      } catch (error) {
        if (error.name === "AbortError" || abort.aborted) return;
        body.hidden = true;
        errors.replaceChildren(dom.problem(error));
      }
    }

    function draw({ epoch, to, num_rows: num, num_moved: moved, counts, items }) {
      const names = [...modalities, "all", null].filter((name) =>
        counts.some(({ before, after }) => before === name || after === name),
      );
      const count = (from, after) =>
        counts.find((each) => each.before === from && each.after === after)?.num_rows ?? 0;
      summary.textContent = `From epoch ${epoch} to epoch ${to}, ${format.integer(moved)} of ${format.count(num, "sample")} moved. Rows: what a sample trained in epoch ${epoch}; columns: in epoch ${to}.`;
      matrix.replaceChildren(
        h(
          "table",
          { class: "heat" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, `epoch ${epoch} → ${to}`),
              names.map((name) => h("th", { scope: "col", class: "num" }, label(name))),
            ),
          ),
          h(
            "tbody",
            {},
            names.map((from) => {
              const row = names.map((after) => count(from, after));
              const total = row.reduce((sum, each) => sum + each, 0);
              return h(
                "tr",
                {},
                h("th", { scope: "row" }, named(from)),
                row.map((each) =>
                  h(
                    "td",
                    { class: "num", style: { "--share": `${total ? (100 * each) / total : 0}%` } },
                    format.integer(each),
                  ),
                ),
              );
            }),
          ),
        ),
      );
      list.element.hidden = !items.length;
      if (items.length < moved)
        summary.textContent += ` Listed: ${format.integer(items.length)}, chosen by chance.`;
      list.update(
        items.map((item) => [
          sampleLink(item.sample_id),
          item.class_name,
          named(item.before),
          named(item.after),
        ]),
      );
    }

    return { element, show };
  }

  return { part };
})();
