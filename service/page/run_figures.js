"use strict";
// The charts over the epochs of a run: their titles and notes.
const runFigures = (() => {
  // pick(epoch): called on a click on an epoch.
  const make = (pick) => ({
    accuracy: charts.figure("accuracy", "Validation accuracy", {
      note: "Fused head, and the unimodal head of each modality. Warm-up epochs are shaded. If training masks modalities after warm-up, the line of the training batches breaks there: its two parts do not compare.",
      height: 260,
      onPick: pick,
    }),
    calibrated: charts.figure("calibrated", "Calibrated validation loss", {
      note: "Cross-entropy after the logits are divided by the best temperature. By default the tested epoch is the lowest of the fused head, and a modality's part of the assembled model the lowest of its head.",
      height: 260,
      onPick: pick,
    }),
    share: charts.figure("share", "Share of samples per modality", {
      note: "Samples assigned to each modality. In warm-up, every sample trains all modalities.",
      height: 260,
      onPick: pick,
    }),
    churn: charts.figure("churn", "Samples that changed modality, %", {
      note: "Samples assigned to another modality than in the previous epoch.",
      height: 260,
      onPick: pick,
    }),
    seconds: charts.figure("seconds", "Seconds per epoch, by stage", {
      note: "load: waiting for data; step: forward, backward and optimizer.",
      onPick: pick,
    }),
    loss: charts.figure("loss", "Loss", {
      note: "Cross-entropy of the fused head. All terms: with the weighted losses of the unimodal heads.",
      onPick: pick,
    }),
    rho: charts.figure("rho", "Confidence ratio, strongest to weakest modality", {
      note: "Confidence: mean probability that the unimodal head gives the correct class (validation split). 1 means balanced.",
      onPick: pick,
    }),
    cosines: charts.figure("cosines", "Cosine between gradients", {
      note: "For each modality: of the fused and the unimodal loss, in its encoder. Shared: of two modalities, in the shared parameters. −1 means opposed.",
      onPick: pick,
    }),
    alone: charts.figure("alone", "Fused head with a single modality", {
      note: "Validation accuracy when all other modalities are masked.",
      onPick: pick,
    }),
  });

  // The grids of the figures that each run has.
  const grids = ({ accuracy, calibrated, share, churn, seconds, loss, rho }) =>
    [
      ["grid", accuracy, calibrated],
      ["grid", share, churn],
      ["grid small", seconds, loss, rho],
    ].map(([kind, ...charts]) => dom.h("div", { class: kind }, charts.map((chart) => chart.element)));

  return { make, grids };
})();
