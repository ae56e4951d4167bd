"use strict";
// Confidence against accuracy of each head on the test split, and the accuracy by class.
const reliability = (() => {
  const { h, quiet, table } = dom;
  const NUM_CLASSES = 50; // shown at first

  // run, modalities: names; signal: aborted when the view closes.
  function section(run, modalities, { signal }) {
    const path = `${api.runPath(run)}/predictions`;
    const style = charts.palette(modalities);
    const chart = charts.figure("reliability", "Accuracy by confidence", {
      note: "Confidence: the probability of the predicted class, in ten bins. On the diagonal, a head is right as often as it says; below it, it is too confident.",
      height: 320,
    });
    const summary = h("div");
    const classesPart = h("div", { class: "part" });
    const body = h(
      "div",
      { class: "part", hidden: true },
      h("h3", {}, "Reliability"),
      h("div", { class: "grid" }, chart.element, summary),
      classesPart,
    );
    const message = h("div");
    const element = h("div", { class: "part" }, message, body);
    let names = null;
    let loaded = null;
    let order = { key: "label", descending: false };
    let all = false;

    // Loads the predictions of a run that is finished.
    async function update({ test_accuracy: test }) {
      if (!test || loaded) return;
      try {
        const [found, classes] = await Promise.all([
          api.get(path, signal),
          api.all(`${path}/classes`, signal),
        ]);
        loaded = { found, classes };
        draw();
      } catch (error) {
        if (error.status === 401 || error.name === "AbortError") throw error;
        message.replaceChildren(error.status === 404 ? quiet(error.detail) : dom.problem(error));
      }
    }

    function draw() {
      body.hidden = false;
      const heads = Object.entries(loaded.found.heads);
      const rows = table("Calibration of the heads", [
        { name: "head", head: true },
        { name: "samples", num: true },
        { name: "accuracy", num: true },
        { name: "mean confidence", num: true },
        { name: "calibration error", num: true },
      ]);
      rows.update(
        heads.map(([head, own]) => [
          label(head),
          format.integer(own.num_rows),
          format.percent(own.accuracy),
          format.percent(own.confidence),
          format.percent(own.calibration_error),
        ]),
      );
      summary.replaceChildren(
        rows.element,
        h(
          "p",
          { class: "note" },
          "Calibration error: the mean difference between confidence and accuracy over the bins, weighted by samples (ECE).",
        ),
      );
      chart.draw(() => spec(heads.filter(([head]) => !head.startsWith("assembled_"))));
      drawClasses();
    }

    const label = (head) => head.replace(/^assembled_/, "assembled, ");

    function styleOf(head) {
      if (head === "fused") return charts.FUSED;
      if (head === "assembled") return { ...charts.FUSED, dash: "dash", symbol: "diamond" };
      return style(head);
    }

    function spec(heads) {
      const diagonal = { colour: "var(--neutral)", dash: "dot", symbol: "circle", width: 1 };
      const filled = heads.map(([head, own]) => [head, own.bins.filter((bin) => bin.num_rows)]);
      return {
        traces: [
          charts.line("as confident as right", [0, 1], [0, 1], diagonal, { mode: "lines", hoverinfo: "skip" }),
          ...filled.map(([head, bins]) =>
            charts.line(head, bins.map((bin) => bin.confidence), bins.map((bin) => bin.accuracy), styleOf(head)),
          ),
        ],
        summary: heads
          .map(([head, own]) => `${head}: calibration error ${format.percent(own.calibration_error)}`)
          .join(", "),
        layout: {
          hovermode: "closest",
          x: { ...charts.percentAxis, title: { text: "confidence", standoff: 6 }, range: [0, 1.02], showgrid: true },
          y: { ...charts.percentAxis, title: { text: "accuracy" }, range: [0, 1.04] },
        },
        columns: [
          { name: "head", head: true },
          { name: "confidence" },
          { name: "samples", num: true },
          { name: "mean confidence", num: true },
          { name: "accuracy", num: true },
        ],
        rows: filled.flatMap(([head, bins]) =>
          bins.map((bin) => [
            head,
            `${format.percent(bin.low)} to ${format.percent(bin.high)}`,
            format.integer(bin.num_rows),
            format.percent(bin.confidence),
            format.percent(bin.accuracy),
          ]),
        ),
      };
    }

    function drawClasses() {
      const heads = Object.keys(loaded.found.heads);
      const name = (row) => names?.[row.label] ?? String(row.label);
      const value = (row) =>
        order.key === "label"
          ? row.label
          : order.key === "num"
            ? row.heads.fused.num_rows
            : (row.heads[order.key.slice(5)].accuracy ?? Infinity);
      const { columns, mark } = sortable.columns(
        [
          { name: "class", key: "label", head: true },
          { name: "samples", key: "num", num: true },
          ...heads.map((head) => ({ name: label(head), key: `head ${head}`, num: true })),
        ],
        (key) => {
          order = { key, descending: order.key === key && !order.descending };
          drawClasses();
          classesPart.querySelector("[aria-sort] button").focus();
        },
      );
      const sign = order.descending ? -1 : 1;
      const sorted = [...loaded.classes].sort(
        (a, b) => sign * (value(a) - value(b)) || a.label - b.label,
      );
      const rows = table("Accuracy by class", columns);
      rows.update(
        (all ? sorted : sorted.slice(0, NUM_CLASSES)).map((row) => [
          name(row),
          format.integer(row.heads.fused.num_rows),
          ...heads.map((head) => format.percent(row.heads[head].accuracy)),
        ]),
      );
      mark(order.key, order.descending);
      const more = () => {
        all = true;
        drawClasses();
      };
      const hidden = sorted.length > NUM_CLASSES && !all;
      classesPart.replaceChildren(
        h("h3", {}, "Accuracy by class"),
        h("p", { class: "note" }, "Share of the test samples of a class that each head predicts correctly. Select a column to sort."),
        rows.element,
        ...(hidden
          ? [h("div", {}, h("button", { type: "button", onclick: more }, `Show all ${format.count(sorted.length, "class", "classes")}`))]
          : []),
      );
    }

    return {
      element,
      update,
      name: (classes) => {
        names = classes;
        if (loaded) drawClasses();
      },
    };
  }

  return { section };
})();
