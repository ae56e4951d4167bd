"use strict";
// Columns of a table whose headers are buttons that sort.
const sortable = (() => {
  // columns: as of dom.table; those with a `key` sort. onSort(key): called on a click.
  // Returns the columns, and mark(key, descending), which shows the order.
  function columns(list, onSort) {
    const buttons = new Map();
    const made = list.map((column) => {
      if (!column.key) return column;
      const press = () => onSort(column.key);
      const button = dom.h("button", { type: "button", class: "sort", onclick: press }, column.name);
      buttons.set(column.key, button);
      return { ...column, name: button };
    });
    const mark = (key, descending) =>
      buttons.forEach((button, own) => {
        const order = descending ? "descending" : "ascending";
        own === key
          ? button.parentElement.setAttribute("aria-sort", order)
          : button.parentElement.removeAttribute("aria-sort");
      });
    return { columns: made, mark };
  }

  return { columns };
})();
