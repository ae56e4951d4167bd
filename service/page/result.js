"use strict";
// The result of a run: tiles of the tested epoch, its accuracies and the assembled model; test
// metrics and confusion matrices.
const result = (() => {
  const { badge, chip, h } = dom;
  const METRICS = {
    loss: ({ value, validation_accuracy: accuracy }) =>
      `lowest calibrated loss, ${format.fixed(value, 3)}; accuracy ${format.percent(accuracy)}`,
    accuracy: ({ value }) => `highest accuracy, ${format.percent(value)}`,
    macro_f1: ({ value, validation_accuracy: accuracy }) =>
      `highest F1, ${format.percent(value)}; accuracy ${format.percent(accuracy)}`,
  };

  const tile = (id, title, value, small = "") =>
    h(
      "div",
      { "data-tile": id },
      h("dt", {}, title),
      h("dd", {}, value, " ", h("small", {}, small)),
    );

  function tested({ best, test_accuracy: test }) {
    const title = test ? "tested epoch" : "best epoch so far";
    if (!best) return tile("best", title, format.NONE);
    const warning = best.in_warmup ? [" ", badge("warm-up")] : null;
    const why = `in validation: ${METRICS[best.metric](best)}`;
    return tile("best", title, [String(best.epoch), warning], why);
  }

  function tiles(detail, epochs, style) {
    const { assembled, modalities: names, test_accuracy: test } = detail;
    const head = (name) => (names.includes(name) ? chip(name, style(name).colour) : `${name} head`);
    const part = (name) =>
      names.includes(name) && assembled ? `assembled from epoch ${assembled.epochs[name]}` : "";
    const tests = Object.entries(test ?? {}).map(([name, value]) =>
      tile(`test-${name}`, ["test accuracy, ", head(name)], format.percent(value), part(name)),
    );
    const total = epochs.reduce((sum, row) => sum + (row.seconds.epoch ?? 0), 0);
    return [
      tested(detail),
      ...tests,
      ...(assembled
        ? [
            tile(
              "assembled",
              "test accuracy, assembled model",
              format.percent(assembled.test_accuracy.fused),
              `readout: ${assembled.readout}`,
            ),
          ]
        : []),
      tile("churn", "samples that changed modality", format.percent(epochs.at(-1)?.churn)),
      tile("time", "total time", epochs.length ? format.seconds(total) : format.NONE),
    ];
  }

  const KINDS = [
    ["accuracy", "accuracy"],
    ["balanced_accuracy", "balanced accuracy"],
    ["macro_f1", "macro F1"],
    ["auroc", "AUROC"],
  ];

  // Metrics of each head on the test split, and its confusion matrix with shares of the labels.
  function predictions({ metrics, confusion }, classes) {
    const kinds = KINDS.filter(([key]) =>
      Object.values(metrics ?? {}).some((own) => format.known(own[key])),
    );
    const table = dom.table("Test metrics", [
      { name: "head", head: true },
      ...kinds.map(([, name]) => ({ name, num: true })),
    ]);
    table.update(
      Object.entries(metrics ?? {}).map(([head, own]) => [
        head,
        ...kinds.map(([key]) => format.percent(own[key])),
      ]),
    );
    return [
      metrics ? table.element : dom.quiet("Available when the run is finished."),
      h(
        "div",
        { class: "grid" },
        Object.entries(confusion ?? {}).map(([head, rows]) => matrix(head, rows, classes)),
      ),
    ];
  }

  function matrix(head, rows, classes) {
    const name = (label) => classes?.[label] ?? String(label);
    const cell = (count, total, label, predicted) =>
      h(
        "td",
        {
          class: "num",
          style: { "--share": `${total ? (100 * count) / total : 0}%` },
          title: `${name(label)} predicted as ${name(predicted)}`,
        },
        format.integer(count),
      );
    const title = `Confusion matrix, ${head}`;
    return h(
      "figure",
      { "data-confusion": head },
      h("figcaption", {}, h("h3", {}, title)),
      h("p", { class: "note" }, "Samples by label (rows) and prediction (columns)."),
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
        h(
          "table",
          { class: "heat" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "label"),
              rows.map((_, label) => h("th", { scope: "col", class: "num" }, name(label))),
            ),
          ),
          h(
            "tbody",
            {},
            rows.map((counts, label) => {
              const total = counts.reduce((sum, count) => sum + count, 0);
              return h(
                "tr",
                {},
                h("th", { scope: "row" }, name(label)),
                counts.map((count, predicted) => cell(count, total, label, predicted)),
              );
            }),
          ),
        ),
      ),
    );
  }

  return { predictions, tiles };
})();
