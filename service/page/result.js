"use strict";
// The result of a run as tiles: the tested epoch, its accuracies, and the assembled model.
const result = (() => {
  const { badge, chip, h } = dom;
  const METRICS = {
    loss: ["lowest calibrated loss", (value) => format.fixed(value, 3)],
    accuracy: ["highest validation accuracy", format.percent],
    macro_f1: ["highest validation F1", format.percent],
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
    const [name, text] = METRICS[best.metric];
    const warning = best.in_warmup ? [" ", badge("warm-up")] : null;
    return tile("best", title, [String(best.epoch), warning], `${name}, ${text(best.value)}`);
  }

  function assembled({ readout, epochs, test_accuracy: test }) {
    const parts = Object.entries(epochs).map(([name, epoch]) => `${name} epoch ${epoch}`);
    const small = `readout ${readout}; ${parts.join(", ")}`;
    return tile("assembled", "test accuracy, assembled", format.percent(test.fused), small);
  }

  function tiles(detail, epochs, style) {
    const names = detail.modalities;
    const head = (name) => (names.includes(name) ? chip(name, style(name).colour) : `${name} head`);
    const tests = Object.entries(detail.test_accuracy ?? {}).map(([name, value]) =>
      tile(`test-${name}`, ["test accuracy, ", head(name)], format.percent(value)),
    );
    const total = epochs.reduce((sum, row) => sum + (row.seconds.epoch ?? 0), 0);
    return [
      tested(detail),
      tile(
        "validation",
        "validation accuracy in that epoch",
        format.percent(detail.best?.validation_accuracy),
      ),
      ...tests,
      ...(detail.assembled ? [assembled(detail.assembled)] : []),
      tile("churn", "samples that changed modality", format.percent(epochs.at(-1)?.churn)),
      tile("time", "total time", epochs.length ? format.seconds(total) : format.NONE),
    ];
  }

  return { tiles };
})();
