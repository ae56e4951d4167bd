"use strict";
// Lists of comparisons and feature sets, and the page of one feature set.
const lists = (() => {
  const { badge, chip, h, paged, quiet, table } = dom;
  const LIMIT = 100;
  const link = (kind, name) => h("a", { href: `#/${kind}/${api.part(name)}` }, name);
  const damaged = (entry) => [entry.name, [badge("damaged"), " ", entry.error]];
  const head = (title, ...more) =>
    h("div", { class: "head" }, h("h1", { tabindex: -1 }, title), ...more);

  function listView({ title, path, columns, row, empty }) {
    return async ({ main, signal }) => {
      const load = (start, limit) => api.get(api.pagePath(path, start, limit), signal);
      const rows = paged({
        caption: title,
        columns,
        load,
        limit: LIMIT,
        empty,
        row: (entry) => (entry.status === "damaged" ? damaged(entry) : row(entry)),
      });
      const first = await load(0, LIMIT);
      main.replaceChildren(head(title), rows.element);
      if (first) await rows.reset();
      return { title, refresh: rows.refresh, isLive: () => false };
    };
  }

  const isLive = ({ status }) => status === "running" || status === "created";

  // Completed epochs of those that were planned, and whether the run ended by `train.patience`.
  const epochs = ({ num_epochs: num, planned_epochs: planned, stopped_epoch: stopped }) =>
    stopped === null ? `${num} of ${planned}` : `${num} (stopped early, of ${planned})`;

  const comparisons = listView({
    title: "Comparisons",
    path: "v1/comparisons",
    empty: "The store has no comparisons yet. Run `remix compare CONFIG.yaml` to create one.",
    columns: [
      { name: "comparison", head: true },
      { name: "methods" },
      { name: "seeds", num: true },
    ],
    row: (row) => [
      link("comparisons", row.name),
      row.methods.join(", "),
      format.integer(row.seeds.length),
    ],
  });

  const features = listView({
    title: "Features",
    path: "v1/features",
    empty:
      "The store has no features yet. Run `remix decode SHARDS --out STORE/features/NAME` to create a feature set.",
    columns: [
      { name: "feature set", head: true },
      { name: "modalities" },
      { name: "samples", num: true },
      { name: "rejected", num: true },
      { name: "classes", num: true },
      { name: "splits", wide: true },
    ],
    row: (row) => {
      const names = Object.keys(row.modalities);
      const splits = Object.entries(row.splits)
        .map(([name, num]) => `${name} ${format.integer(num)}`)
        .join(", ");
      return [
        link("features", row.name),
        names.map((name) => [chip(name, charts.palette(names)(name).colour), " "]),
        format.integer(row.num_rows),
        format.integer(row.num_rejected),
        format.integer(row.num_classes),
        splits,
      ];
    },
  });

  // The rejected samples of a feature set, with their reasons.
  function rejected(name, signal) {
    let total = 0;
    const reasons = h("p", { class: "bar" });
    const rows = paged({
      caption: "Rejected samples",
      columns: [
        { name: "sample", head: true },
        { name: "reason" },
        { name: "stage", wide: true },
        { name: "shard", wide: true },
        { name: "error", fill: true },
      ],
      limit: 25,
      empty: "No sample was rejected.",
      total: () => total,
      load: async (start, limit) =>
        total === 0
          ? { items: [], next: null }
          : api.get(api.pagePath(`v1/features/${api.part(name)}/rejected`, start, limit), signal),
      row: (row) => [row.sample_id || format.NONE, row.reason, row.stage, row.shard, row.error],
    });
    async function show(detail) {
      total = detail.num_rejected;
      const share = format.percent(total / (total + detail.num_rows || 1));
      const counts = Object.entries(detail.reasons).map(
        ([reason, num]) => `${reason} ${format.integer(num)}`,
      );
      reasons.textContent = total
        ? `${format.integer(total)} of ${format.integer(total + detail.num_rows)} samples (${share}): ${counts.join(", ")}`
        : "";
      await rows.reset();
    }
    return { element: h("div", {}, reasons, rows.element), show };
  }

  // What of the shards is not in the features as its name says.
  function leftOut({ ignored, unread, mislabelled }) {
    const counts = (of) => Object.entries(of).map(([what, num]) => `${what} ${format.integer(num)}`);
    const formats = Object.entries(mislabelled).map(
      ([suffix, of]) => `${suffix}: ${counts(of).join(", ")}`,
    );
    return [
      ["Media that no modality reads", counts(unread)],
      ["Members of unknown suffix", counts(ignored)],
      ["Decoded by content, not by suffix", formats],
    ].flatMap(([title, items]) => (items.length ? [`${title}: ${items.join("; ")}.`] : []));
  }

  async function feature({ main, params, query, signal }) {
    const name = params[0];
    const path = `v1/features/${api.part(name)}`;
    const detail = await api.get(path, signal);
    const names = Object.keys(detail.modalities);
    const style = charts.palette(names);
    const modalities = table("Modalities", [
      { name: "modality", head: true },
      { name: "kind" },
      { name: "shape" },
      { name: "data type", wide: true },
      { name: "samples", num: true },
      { name: "samples without it", num: true },
    ]);
    modalities.update(
      Object.entries(detail.modalities).map(([modality, { kind, shape, dtype, num_rows: num }]) => [
        chip(modality, style(modality).colour),
        kind,
        shape.join("\u00a0×\u00a0"),
        dtype,
        format.integer(num),
        format.integer(detail.num_rows - num),
      ]),
    );
    const rejectedPart = rejected(name, signal);
    const tile = (title, value) => h("div", {}, h("dt", {}, title), h("dd", {}, value));
    const crumbs = h("p", { class: "crumbs" }, h("a", { href: "#/features" }, "Features"), " /");
    main.replaceChildren(
      h(
        "div",
        { class: "head" },
        crumbs,
        h("h1", { tabindex: -1 }, name),
        dom.properties([
          ["fingerprint", h("code", {}, detail.fingerprint.slice(0, 12))],
          ["parts", format.integer(detail.num_parts)],
        ]),
      ),
      h(
        "dl",
        { class: "tiles" },
        tile("samples", format.integer(detail.num_rows)),
        Object.entries(detail.splits).map(([split, num]) => tile(split, format.integer(num))),
        tile("classes", format.integer(detail.num_classes)),
        tile("rejected", format.integer(detail.num_rejected)),
      ),
      h(
        "section",
        { class: "part" },
        h("h2", {}, "Modalities"),
        modalities.element,
        leftOut(detail).map((text) => quiet(text)),
      ),
      h("section", { class: "part", id: "rejected" }, h("h2", {}, "Rejected samples"), rejectedPart.element),
      h("section", { class: "part" }, h("h2", {}, "Classes"), quiet(detail.classes.join(", "))),
    );
    await rejectedPart.show(detail);
    return {
      title: name,
      refresh: async () => {},
      opened: () => query.get("at") === "rejected" && document.getElementById("rejected").scrollIntoView(),
      isLive: () => false,
    };
  }

  return { comparisons, epochs, feature, features, head, isLive, link };
})();
