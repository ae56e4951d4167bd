"use strict";
// Samples to look at: the hardest ones, those that changed modality most often, and the mistakes
// of the fused head.
const samples = (() => {
  const { chip, h, paged, quiet } = dom;
  const LIMIT = 25;
  const SPLITS = ["train", "validation", "test"];

  // sampleLink(id): a link that opens the sample.
  function section(run, modalities, { signal, sampleLink }) {
    const style = charts.palette(modalities);
    const path = api.runPath(run);
    let detail = null;
    const option = (value, text = value) => h("option", { value }, text);
    const select = (id, options) => h("select", { id, onchange: () => change() }, options);
    const list = select("samples-list", [
      option("hardest", "hardest"),
      option("changes", "changed modality most often"),
      option("mistakes", "fused head is wrong"),
    ]);
    const modality = select("samples-modality", [
      option("", "mean of all"),
      modalities.map((name) => option(name)),
    ]);
    const ofClass = select("samples-class", [option("", "any")]);
    const split = select("samples-split", [option("", "any"), SPLITS.map((name) => option(name))]);
    const field = (name, input) =>
      h("span", { class: "field" }, h("label", { for: input.id, class: "note" }, name), input);
    const modalityField = field("Modality", modality);
    const note = h("p", { class: "note", id: "samples-note" });
    const filters = api.report
      ? []
      : [modalityField, field("Class", ofClass), field("Split", split)];
    const sampleColumns = [
      { name: "sample", head: true },
      { name: "class" },
    ];
    const lists = {
      hardest: view(
        "Hardest samples",
        [
          { name: "difficulty", num: true },
          ...modalities.map((name) => ({ name, num: true, wide: modalities.length > 2 })),
        ],
        (item) => [
          format.fixed(item.value, 3),
          ...modalities.map((name) => format.fixed(item.difficulty[name], 3)),
        ],
        () => `scores/${detail.scores.at(-1)}/hardest`,
        (page) => `By the scores of epoch ${page.epoch}.`,
        () => (detail.scores.length ? null : "No epoch was scored yet."),
      ),
      changes: view(
        "Samples that changed modality",
        [{ name: "changes", num: true }, { name: "last assigned to" }],
        (item) => [
          format.integer(item.num_changes),
          modalities.includes(item.assigned)
            ? chip(item.assigned, style(item.assigned).colour)
            : item.assigned,
        ],
        () => "changes",
        (page) => `Over the ${format.count(page.num_plans, "plan")} of the run.`,
        () => null,
      ),
      mistakes: view(
        "Samples that the fused head gets wrong",
        [
          { name: "predicted" },
          { name: "p(predicted)", num: true },
          { name: "p(correct class)", num: true },
          { name: "unimodal heads that are right", wide: true },
        ],
        (item) => [
          item.predicted_name,
          format.fixed(item.p_predicted, 3),
          format.fixed(item.p_label, 3),
          item.right.length ? item.right.map((name) => [chip(name, style(name).colour), " "]) : "none",
        ],
        () => "mistakes",
        () => "Predictions of the tested epoch's model on the test split; first the most confident of the wrong ones.",
        () => (detail.test_accuracy ? null : "Available when the run is finished."),
      ),
    };

    function view(caption, columns, cells, address, about, missing) {
      let num = null;
      const rows = paged({
        caption,
        columns: [...sampleColumns, ...columns],
        limit: LIMIT,
        empty: "No sample matches.",
        total: () => num,
        load: async (start, limit) => {
          const query = new URLSearchParams();
          if (list.value === "hardest" && modality.value) query.set("modality", modality.value);
          if (ofClass.value) query.set("class", ofClass.value);
          if (split.value) query.set("split", split.value);
          const page = await api.get(
            api.pagePath(`${path}/${address()}`, start, limit, query.size ? `&${query}` : ""),
            signal,
          );
          num = page.num_rows;
          note.textContent = `${about(page)} ${page.reason ?? ""} ${num > 1000 ? "The list ends after 1,000 samples." : ""}`.trim();
          return page;
        },
        row: (item) => [sampleLink(item.sample_id), item.class_name, ...cells(item)],
      });
      return { ...rows, missing };
    }

    async function show(refresh) {
      const shown = lists[list.value];
      for (const each of Object.values(lists)) each.element.hidden = each !== shown;
      modalityField.hidden = list.value !== "hardest";
      const missing = shown.missing();
      if (missing) {
        shown.element.hidden = true;
        note.textContent = missing;
        return;
      }
      errors.replaceChildren();
      try {
        await (refresh ? shown.refresh() : shown.reset());
      } catch (error) {
        if (error.name === "AbortError") return;
        if (error.status === 401) throw error;
        note.textContent = "";
        shown.element.hidden = true;
        errors.replaceChildren(dom.problem(error));
      }
    }

    const change = () => show(false);
    const errors = h("div");
    const element = h(
      "section",
      { class: "part", id: "samples" },
      h("h2", {}, "Samples to look at"),
      h("div", { class: "bar" }, field("List", list), filters),
      note,
      errors,
      Object.values(lists).map((each) => each.element),
    );

    // detail: the run; called again if it changed.
    async function update(to) {
      const first = detail === null;
      detail = to;
      await show(!first);
    }

    const named = (classes) =>
      ofClass.replaceChildren(option("", "any"), ...classes.map((name) => option(name)));

    return { element, named, update };
  }

  return { section };
})();
