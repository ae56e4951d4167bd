"use strict";
// The result of a run as tiles: the tested epoch, its accuracies, and the assembled model.
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

  return { tiles };
})();
