"use strict";
// One run: its results, charts over its epochs, the plan of one epoch, and one sample.
const run = (() => {
  const { badge, properties, h, quiet } = dom;
  const STAGES = ["score", "plan", "load", "step", "validate"];
  const column = (rows, get) => rows.map((row) => get(row) ?? null);

  async function view({ main, params, query, signal, announce, setQuery }) {
    const name = params[0];
    const path = api.runPath(name);
    let detail = await api.get(path, signal);
    let epochs = null;
    const { features, lost } = await runFeatures.load(detail.features, signal);
    const names = detail.modalities;
    const style = charts.palette(names);
    const pick = (epoch) => {
      if (detail.plans.includes(epoch)) onePlan.choose(epoch);
    };
    const tested = () => (detail.test_accuracy ? detail.best.epoch : null);
    const figures = runFigures.make(pick);
    const diagnostics = h(
      "div",
      { class: "grid small", hidden: true },
      figures.cosines.element,
      figures.alone.element,
    );
    const status = h("span");
    const about = h("div", { class: "about" });
    const tiles = h("dl", { class: "tiles" });
    const failure = h("div");
    const onePlan = plan.section(name, names, {
      signal,
      onEpoch: (epoch, isLast) => {
        setQuery({ epoch: isLast ? null : epoch });
        drawEpochs();
      },
      onSample: openSample,
      sampleLink,
      sampled: features !== null,
    });
    const lookAt = samples.section(name, names, { signal, sampleLink });
    const sampleHistory = sample.section(name, detail.features.name, names, {
      signal,
      tested,
      onPick: pick,
      onSearch: (id) => setQuery({ sample: id }),
    });
    async function openSample(id) {
      await sampleHistory.open(id);
      sampleHistory.element.scrollIntoView();
    }
    function sampleLink(id) {
      const open = (event) =>
        event.ctrlKey || event.metaKey || (event.preventDefault(), openSample(id));
      return h("a", { href: `#/runs/${api.part(name)}?sample=${api.part(id)}`, onclick: open }, id);
    }
    const predictions = h("div", { class: "predictions" });
    const reliable = reliability.section(name, names, { signal });
    const rejected = h("p", {}, "Loading …");
    const config = h("pre", { tabindex: 0, role: "region", "aria-label": "Configuration" });
    const part = (id, title, ...children) =>
      h("section", { class: "part", id }, h("h2", {}, title), ...children);
    const parts = {
      training: part(
        "training",
        "Training",
        ...runFigures.grids(figures),
        diagnostics,
      ),
      predictions: part("predictions", "Test predictions", predictions, reliable.element),
      rejected: part("rejected", "Rejected samples", rejected),
      configuration: h(
        "section",
        { id: "configuration" },
        h("details", {}, h("summary", {}, "Configuration"), config),
      ),
    };
    const sampleParts = features
      ? [
          ["Samples", lookAt.element],
          ["Sample history", sampleHistory.element],
          ["Rejected samples", parts.rejected],
        ]
      : [];
    const sections = tabs.bar(
      [
        ["Training", parts.training],
        ["Test predictions", parts.predictions],
        ["Plan", onePlan.element],
        ...sampleParts,
        ["Configuration", parts.configuration],
      ],
      { path: `#/runs/${api.part(name)}`, signal, setQuery },
    );
    main.replaceChildren(
      h(
        "div",
        { class: "head" },
        h(
          "p",
          { class: "crumbs" },
          api.report ? "Report of a run" : [h("a", { href: "#/" }, "Runs"), " /"],
        ),
        h("div", { class: "title" }, h("h1", { tabindex: -1 }, name), status),
        about,
      ),
      failure,
      ...(lost ? [lost] : []),
      tiles,
      sections.element,
      parts.training,
      parts.predictions,
      onePlan.element,
      ...sampleParts.map(([, element]) => element),
      parts.configuration,
    );

    function drawHead() {
      const { train = {}, plan: planConfig = {} } = detail.config;
      status.replaceChildren(badge(detail.status));
      const comparisons = detail.comparisons.map((each) =>
        api.report ? each : lists.link("comparisons", each),
      );
      const assigns = epochs.some((row) => row.policy !== "joint");
      about.replaceChildren(
        properties([
          [
            "features",
            api.report ? detail.features.name : lists.link("features", detail.features.name),
          ],
          ["method", detail.method],
          ...(comparisons.length
            ? [[comparisons.length > 1 ? "comparisons" : "comparison", comparisons]]
            : []),
          ["seed", String(detail.seed)],
          ["epochs", `${lists.epochs(detail)}, warm-up: ${detail.warmup_epochs}`],
          ...(assigns ? [["policy", planConfig?.policy ?? format.NONE]] : []),
          ["batch size", format.integer(train?.batch_size)],
          ["updated", format.when(detail.updated)],
          ["code version", detail.code_version],
        ]),
        ...(lists.isLive(detail)
          ? [
              h("progress", {
                max: detail.planned_epochs,
                value: detail.num_epochs,
                "aria-label": "Completed epochs",
              }),
            ]
          : []),
      );
      failure.replaceChildren(
        ...(detail.error ? [dom.problem({ title: "The run failed", detail: detail.error })] : []),
      );
      config.textContent = JSON.stringify(detail.config, null, 1);
    }

    const drawPredictions = () =>
      predictions.replaceChildren(...result.predictions(detail, features?.classes ?? null));

    function drawEpochs() {
      if (!epochs) return;
      const x = epochs.map((row) => row.epoch);
      const base = (y) => ({
        x: charts.epochAxis(0, Math.max(detail.planned_epochs - 1, ...x)),
        y,
        ...charts.marks({
          warmup: detail.warmup_epochs,
          tested: tested(),
          epoch: onePlan.epoch(),
        }),
      });
      const lastOf = (values, text) =>
        values
          .map((get) => `${get.name} ${text(epochs.at(-1) && get.value(epochs.at(-1)))}`)
          .join(", ");
      const draw = (chart, series, text, more) =>
        chart.draw(() => ({
          traces: series.map((row) => row.trace(x, column(epochs, row.value))),
          summary: epochs.length ? `Epoch ${x.at(-1)}: ${lastOf(series, text)}.` : "",
          columns: [
            { name: "epoch", num: true, head: true },
            ...series.map((row) => ({ name: row.name, num: true })),
          ],
          rows: epochs.map((row) => [
            String(row.epoch),
            ...series.map(({ value }) => text(value(row))),
          ]),
          ...more(),
        }));
      const lined = (label, own, value) => ({
        name: label,
        value,
        trace: (at, y) => charts.line(label, at, y, own),
      });
      const barred = (label, own, value) => ({
        name: label,
        value,
        trace: (at, y) => charts.bars(label, at, y, own),
      });
      const heads = (key) => [
        lined("fused head", charts.FUSED, (row) => row[key]),
        ...names.map((name) => lined(name, style(name), (row) => row.modalities[name]?.[key])),
      ];
      const masks = epochs.map((row) =>
        names.some((name) => format.known(row.modalities[name]?.share)),
      );
      const batches = { ...charts.FUSED, dash: "dot", width: 1, colour: "var(--neutral)" };
      // a line that breaks between epochs of joint and of modality-pure batches
      const broken = (label, own, value) => ({
        name: label,
        value,
        trace: (at, y) => {
          const breaks = (values, between) =>
            values.flatMap((each, i) =>
              i && masks[i] !== masks[i - 1] ? [between(i), each] : [each],
            );
          return charts.line(
            label,
            breaks(at, (i) => at[i] - 0.5),
            breaks(y, () => null),
            own,
          );
        },
      });
      const training = broken("fused head, training batches", batches, (row) => row.train_accuracy);
      draw(figures.accuracy, [...heads("validation_accuracy"), training], format.percent, () => ({
        layout: base({ ...charts.percentAxis, title: { text: "accuracy" }, range: [0, 1.02] }),
      }));
      draw(figures.calibrated, heads("calibrated_loss"), format.fixed, () => ({
        layout: base({ title: { text: "cross-entropy" }, hoverformat: ".3f" }),
      }));
      draw(
        figures.share,
        names.map((name) => barred(name, style(name), (row) => row.modalities[name]?.share)),
        format.percent,
        () => ({
          layout: {
            ...base({ ...charts.percentAxis, title: { text: "samples" }, range: [0, 1] }),
            barmode: "stack",
            bargap: 0.15,
          },
          empty:
            epochs.length &&
            !epochs.some((row) => names.some((m) => format.known(row.modalities[m]?.share)))
              ? "So far, every sample trained all modalities."
              : undefined,
        }),
      );
      draw(
        figures.churn,
        [
          lined(
            "samples that changed modality",
            { colour: "var(--accent)", dash: "solid", symbol: "circle" },
            (row) => row.churn,
          ),
        ],
        format.percent,
        () => ({
          layout: base({ ...charts.percentAxis, title: { text: "samples" }, range: [0, 1] }),
          empty: epochs.some((row) => format.known(row.churn))
            ? undefined
            : "Available from the second epoch after warm-up.",
        }),
      );
      const rest = (row) =>
        format.known(row.seconds.epoch)
          ? Math.max(
              0,
              row.seconds.epoch - STAGES.reduce((sum, stage) => sum + (row.seconds[stage] ?? 0), 0),
            )
          : null;
      draw(
        figures.seconds,
        [
          ...STAGES.map((stage, i) =>
            barred(stage, { colour: `var(--s${i})` }, (row) => row.seconds[stage]),
          ),
          barred("other", { colour: "var(--s5)" }, rest),
        ],
        format.seconds,
        () => ({ layout: { ...base({ title: { text: "seconds" }, hoverformat: ".2f" }), barmode: "stack" } }),
      );
      draw(
        figures.loss,
        [
          lined("validation", charts.FUSED, (row) => row.validation_loss),
          broken("training batches", batches, (row) => row.train_fused_loss),
          broken(
            "training batches, all terms",
            { ...batches, colour: "var(--s2)", dash: "dash" },
            (row) => row.train_loss,
          ),
        ],
        format.fixed,
        () => ({ layout: base({ title: { text: "cross-entropy" }, hoverformat: ".3f" }) }),
      );
      draw(
        figures.rho,
        [
          lined(
            "confidence ratio",
            { colour: "var(--accent)", dash: "solid", symbol: "circle" },
            (row) => row.rho,
          ),
        ],
        format.fixed,
        () => ({ layout: base({ title: { text: "ratio" }, hoverformat: ".2f" }) }),
      );
      diagnostics.hidden = !epochs.some((row) =>
        names.some((m) => format.known(row.modalities[m]?.zero_mask_accuracy)),
      );
      if (diagnostics.hidden) return;
      const own = (key) =>
        names.map((name) => lined(name, style(name), (row) => row.modalities[name]?.[key]));
      draw(
        figures.cosines,
        [
          ...own("gradient_cosine"),
          lined("shared", charts.FUSED, (row) => row.head_gradient_cosine),
        ],
        format.fixed,
        () => ({ layout: base({ title: { text: "cosine" }, range: [-1.02, 1.02], hoverformat: ".2f" }) }),
      );
      draw(figures.alone, own("zero_mask_accuracy"), format.percent, () => ({
        layout: base({ ...charts.percentAxis, title: { text: "accuracy" }, range: [0, 1.02] }),
      }));
    }

    // The number of rejected samples, which the page of the feature set lists.
    function showRejected({ name: own, num_rejected: num, num_rows: rows }) {
      const share = format.percent(num / (num + rows || 1));
      rejected.replaceChildren(
        num
          ? `${format.integer(num)} of ${format.integer(num + rows)} samples (${share}) were rejected when the features were made. `
          : "No sample was rejected when the features were made.",
        ...(num && !api.report ? [h("a", { href: `#/features/${api.part(own)}?at=rejected` }, "See why")] : []),
      );
    }

    // Read after the requests of a refresh, during which the reader may choose another epoch.
    const wanted = () => (setQuery().has("epoch") ? Number(setQuery().get("epoch")) : null);

    async function refresh(first = false) {
      const [newDetail, newEpochs] = await Promise.all([
        first ? detail : api.get(path, signal),
        api.all(`${path}/epochs`, signal),
      ]);
      const changed = newDetail !== detail || newEpochs !== epochs;
      if (!changed && !first) return onePlan.choose(wanted() ?? detail.plans.at(-1));
      if (!first && newEpochs.length !== epochs.length)
        announce(
          `${format.count(newEpochs.length, "epoch")} completed; validation accuracy ${format.percent(newEpochs.at(-1)?.validation_accuracy)}.`,
        );
      if (!first && newDetail.status !== detail.status) announce(`The run is ${newDetail.status}.`);
      [detail, epochs] = [newDetail, newEpochs];
      drawHead();
      dom.patch(tiles, result.tiles(detail, epochs, style));
      drawPredictions();
      const updates = Promise.all([
        reliable.update(detail),
        onePlan.update(detail.plans, wanted()),
        features && lookAt.update(detail),
      ]);
      drawEpochs();
      await updates;
      if (!first) await sampleHistory.refresh();
    }

    if (features) {
      lookAt.named(features.classes);
      reliable.name(features.classes);
      showRejected(features);
    }
    await refresh(true);
    if (features && query.get("sample")) await sampleHistory.open(query.get("sample"));
    return {
      title: name,
      refresh: () => {
        sections.follow();
        return refresh();
      },
      opened: () => {
        sections.follow();
        if (query.get("sample") && !query.get("at")) sections.go("sample");
      },
      isLive: () => lists.isLive(detail),
      events: `${path}/events`,
    };
  }

  return { view };
})();
