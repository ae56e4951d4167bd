"use strict";
// Creates elements. Text is inserted as text nodes only, so that the content of a store cannot
// inject markup.
const dom = (() => {
  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style")
        for (const [property, setting] of Object.entries(value))
          element.style.setProperty(property, setting);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(
      ...children
        .flat(2)
        .filter((child) => child !== null && child !== undefined && child !== false),
    );
    return element;
  }

  const colour = (value) => ({ "--c": value });
  const chip = (name, value) => h("span", { class: "chip", style: colour(value) }, name);
  const badge = (status) =>
    h("span", { class: `badge ${/^[a-z]+$/.test(status) ? status : ""}` }, status);
  const properties = (pairs) =>
    h(
      "dl",
      { class: "properties" },
      pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
  const quiet = (...text) => h("p", { class: "quiet" }, ...text);

  function problem(error, ...more) {
    const detail = error.detail && error.detail !== error.title ? h("p", {}, error.detail) : null;
    const request = error.requestId
      ? h("p", { class: "quiet" }, `Request ${error.requestId}`)
      : null;
    return h(
      "div",
      { class: "problem", role: "alert" },
      h(
        "strong",
        {},
        error.title ?? "Error in this page",
        error.status ? ` (${error.status})` : "",
      ),
      detail ?? (error.title ? null : h("p", {}, String(error.message ?? error))),
      request,
      more,
    );
  }

  // Replaces only the children that differ, so that the others keep focus and selection.
  function patch(parent, children) {
    const focused = parent.contains(document.activeElement) ? document.activeElement : null;
    children.forEach((child, i) => {
      const old = parent.children[i];
      if (!old) parent.append(child);
      else if (!old.isEqualNode(child)) {
        const link = focused && old.contains(focused) ? focused.getAttribute("href") : null;
        old.replaceWith(child);
        if (link)
          [...child.querySelectorAll("a")]
            .find((anchor) => anchor.getAttribute("href") === link)
            ?.focus();
      }
    });
    while (parent.children.length > children.length) parent.lastElementChild.remove();
  }

  // columns: [{ name, num, wide, fill, head }]; rows: arrays of text or nodes. The last cell of a
  // short row spans the rest.
  function table(caption, columns) {
    const styles = columns.map(
      ({ num, wide, fill }) =>
        [num && "num", wide && "wide", fill && "fill"].filter(Boolean).join(" ") || null,
    );
    const body = h("tbody");
    const heads = columns.map(({ name }, i) => h("th", { scope: "col", class: styles[i] }, name));
    const element = h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, caption),
        h("thead", {}, h("tr", {}, heads)),
        body,
      ),
    );
    function cell(value, i, row) {
      const span = i === row.length - 1 && i < columns.length - 1 ? columns.length - i : null;
      return columns[i].head
        ? h("th", { scope: span ? "rowgroup" : "row", class: styles[i], colspan: span }, value)
        : h("td", { class: styles[i], colspan: span }, value);
    }
    return {
      element,
      update: (rows) =>
        patch(
          body,
          rows.map((row) => h("tr", {}, row.map(cell))),
        ),
    };
  }

  // A table with pages of a list of the service. Starts come from `next`: with a filter they are
  // not multiples of the limit. arrange(items): all rows of a page, in place of row(item) for each.
  function paged({ caption, columns, load, row, limit, empty, arrange = null, total = () => null }) {
    const rows = table(caption, columns);
    const position = h("output", { class: "where" });
    const none = quiet(empty);
    const errors = h("div");
    const button = (name, to) =>
      h(
        "button",
        {
          type: "button",
          onclick: (event) =>
            event.currentTarget.getAttribute("aria-disabled") !== "true" && turn(to()),
        },
        name,
      );
    const previous = button("Previous", () => starts.slice(0, -1));
    const next = button("Next", () => [...starts, following]);
    const controls = h(
      "div",
      { class: "pager", role: "group", "aria-label": `Pages: ${caption}` },
      previous,
      next,
      position,
    );
    let starts = [0];
    let following = null;
    let latest = 0;

    async function go(to) {
      const request = ++latest;
      const page = await load(to.at(-1), limit);
      if (request === latest) show(page, to);
    }

    const turn = (to) =>
      go(to).catch(
        (error) => error.name !== "AbortError" && errors.replaceChildren(problem(error)),
      );

    function show(page, to) {
      const { items } = page;
      [starts, following] = [to, api.nextStart(page)];
      const first = (starts.length - 1) * limit;
      const num = total();
      const more = api.report && following !== null ? "; more in the service" : "";
      errors.replaceChildren();
      rows.update(arrange ? arrange(items) : items.map(row));
      position.textContent = items.length
        ? `${format.integer(first + 1)} – ${format.integer(first + items.length)}${num === null ? "" : ` of ${format.integer(num)}`}${more}`
        : "";
      previous.setAttribute("aria-disabled", String(starts.length === 1));
      next.setAttribute("aria-disabled", String(following === null || Boolean(api.report)));
      none.hidden = items.length > 0;
      rows.element.hidden = items.length === 0;
      controls.hidden = !items.length || (starts.length === 1 && following === null);
    }

    controls.hidden = rows.element.hidden = none.hidden = true;
    return {
      element: h("div", { class: "paged" }, errors, none, rows.element, controls),
      first: () => turn([0]),
      refresh: () => go(starts),
      reset: () => go([0]),
    };
  }

  return { badge, chip, colour, properties, h, paged, patch, problem, quiet, table };
})();
